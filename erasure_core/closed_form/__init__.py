"""Edits that are solved for: rows of text states, and the ridge regression that fits them."""
