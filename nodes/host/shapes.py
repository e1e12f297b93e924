"""The sizes of a MODEL's latents, and whether a picture's size and a VAE fit them."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def latent_shape(latent_format: Any, width: int, height: int) -> tuple[int, ...]:
    """The shape (channels, ...) of one picture's latents: a video model's picture is a video of one frame."""
    ratio = latent_format.spacial_downscale_ratio
    frames = [1] * (latent_format.latent_dimensions - 2)
    return (latent_format.latent_channels, *frames, height // ratio, width // ratio)


def pictures_of(vae: Any, latents: Tensor) -> Tensor:
    """Latents as KSampler gives them -> images (n, height, width, channels); of a video VAE the frames are pictures."""
    images = vae.decode(latents)
    return images.reshape(-1, *images.shape[-3:])


def check_size(model: Any, width: int, height: int) -> None:
    """Raise ValueError, naming it and a size near by, if a width or height does not fit the model's latents."""
    ratio = model.model.latent_format.spacial_downscale_ratio
    for name, value in (("width", width), ("height", height)):
        if value % ratio or value <= 0:
            raise ValueError(
                f"{name} is {value}, which is no multiple of {ratio}; try {max(1, round(value / ratio)) * ratio}"
            )


def check_vae(model: Any, vae: Any) -> None:
    """Raise ValueError, naming both, if a VAE makes latents that the model cannot read.

    What a VAE does not say of itself is not compared. An image VAE serves a video model of as many channels, for which
    ComfyUI decodes the first frame (TAESD); a video VAE gives an image model five dimensions, and does not.
    """
    latent_format = model.model.latent_format
    reads = (latent_format.latent_channels, latent_format.spacial_downscale_ratio, latent_format.latent_dimensions)
    compression = getattr(vae, "spacial_compression_encode", lambda: reads[1])
    gives = (getattr(vae, "latent_channels", reads[0]), compression(), getattr(vae, "latent_dim", reads[2]))
    if gives[:2] == reads[:2] and gives[2] <= reads[2]:
        return
    said, wanted = (
        f"{channels} channels at 1/{ratio} of the picture's size, for {'pictures' if dimensions == 2 else 'videos'}"
        for channels, ratio, dimensions in (gives, reads)
    )
    raise ValueError(
        f"VAE and MODEL do not belong together: the latents of this VAE have {said}, those of the "
        f"{type(model.model.model_config).__name__} MODEL {wanted}. Link the VAE of the MODEL's own checkpoint, or its "
        f"family's from Load VAE"
    )
