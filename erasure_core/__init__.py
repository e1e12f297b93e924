"""Concept erasure for diffusion models: torch and numpy only, no ComfyUI. A model is whatever fulfils `denoiser.Denoiser`."""
