"""What fits: a run's memory before its first step, batches in parts, checkpointing, and number types."""
