"""Edits that act while the model samples: gates, low-rank changes, skip corrections, attention maps."""
