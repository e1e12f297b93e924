"""Fitting a run into memory: the plan before its first step, micro-batches, checkpointing, and number types."""
