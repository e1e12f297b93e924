"""Searches for the concept that an edit hurts most."""
