"""Attacks on an erasure: each tries to bring the concept back, beside a control that should not."""
