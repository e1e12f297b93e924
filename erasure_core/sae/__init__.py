"""Sparse autoencoders of a block: training, file, and the edit of their latents."""
