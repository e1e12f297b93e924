"""The sizes of a MODEL's latents, and pictures of latents."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def latent_shape(model: Any, width: int, height: int) -> tuple[int, ...]:
    """The shape (channels, ...) of the latents of one picture by this MODEL: a video model's picture is a video of one
    frame."""
    latent_format = model.get_model_object("latent_format")
    ratio = latent_format.spacial_downscale_ratio
    frames = [1] * (latent_format.latent_dimensions - 2)
    return (latent_format.latent_channels, *frames, height // ratio, width // ratio)


def fitting_size(model: Any, width: int, height: int) -> tuple[int, int]:
    """The largest size within this one that fits the model's latents, at least one latent pixel each way."""
    ratio = model.model.latent_format.spacial_downscale_ratio
    return max(1, width // ratio) * ratio, max(1, height // ratio) * ratio


def pictures_of(vae: Any, latents: Tensor) -> Tensor:
    """Latents as KSampler gives them -> images (n, height, width, channels); of a video VAE the frames are pictures."""
    images = vae.decode(latents)
    return images.reshape(-1, *images.shape[-3:])
