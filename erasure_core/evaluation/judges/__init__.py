"""Who looks at pictures: image classifiers, zero-shot models and detectors."""
