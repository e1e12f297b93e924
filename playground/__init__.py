"""A tiny Stable Diffusion 1.5 style checkpoint that this project draws, trains and judges itself."""
