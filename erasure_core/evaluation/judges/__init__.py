"""Judges of pictures: image classifiers, zero-shot models and detectors."""
