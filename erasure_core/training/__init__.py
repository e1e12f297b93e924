"""The optimisation loop of trained methods and what it is made of: deltas, settings, the optimiser, latents."""
