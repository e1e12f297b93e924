"""The playground's autoencoder: a TAESD of 64x64 pictures to 8x8x4 latents, trained on drawings alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .drawing import draw, foreground, random_scene
from .training import Schedule, channels_last, fast_precision, initialise, train

if TYPE_CHECKING:
    from comfy.taesd.taesd import TAESD

SCHEDULE = Schedule(steps=2600, batch=24, learning_rate=8e-4, ema=0.998, weight_decay=0.0)


def new_autoencoder(seed: int = 1) -> TAESD:
    """ComfyUI's own TAESD module with random weights."""
    from comfy.taesd.taesd import TAESD

    module = TAESD(latent_channels=4)
    initialise(module, seed)
    module.vae_scale.requires_grad_(False)
    module.vae_shift.requires_grad_(False)
    return module


def reconstruction_loss(module: TAESD, batch: int, generator: torch.Generator) -> Tensor:
    """The error on fresh drawings (`reconstruction_error`)."""
    scene = random_scene(batch, generator)
    return reconstruction_error(module, draw(scene), foreground(scene), generator)


def reconstruction_error(module: TAESD, pictures: Tensor, drawn: Tensor, generator: torch.Generator) -> Tensor:
    """Pixel error on pictures (n, 3, 64, 64), weighted four to one for what is drawn (n, 1, 64, 64) over the bare background.

    A little noise on the latents makes the decoder forgive what the diffusion model gets slightly wrong; the pull
    towards unit variance keeps the encoder from outgrowing that noise.
    """
    weight = 0.25 + 0.75 * drawn
    with fast_precision():
        latents = module.taesd_encoder(pictures.contiguous(memory_format=torch.channels_last)).float()
        noisy = latents + 0.08 * torch.randn(latents.shape, generator=generator)
        decoded = module.taesd_decoder(noisy.contiguous(memory_format=torch.channels_last)).float()
    error = decoded - pictures
    spread = latents.std(dim=(0, 2, 3)) - 1
    centre = latents.mean(dim=(0, 2, 3))
    return (weight * (error.square() + 0.1 * error.abs())).mean() + 0.01 * (spread.square() + centre.square()).mean()


def train_autoencoder(folder: Path, schedule: Schedule = SCHEDULE) -> TAESD:
    """Train (or go on training) the autoencoder; `vae_scale` is set so that scaled latents have unit variance."""
    module = channels_last(new_autoencoder())

    def loss(batch: int, generator: torch.Generator) -> Tensor:
        return reconstruction_loss(module, batch, generator)

    averaged = train("autoencoder", module, loss, schedule, seed=2, checkpoint=folder / "autoencoder.pt")
    return scaled(averaged, draw(random_scene(512, torch.Generator().manual_seed(3))))


@torch.no_grad()
def scaled(module: TAESD, pictures: Tensor) -> TAESD:
    """`module` with the scale and shift under which the latents of `pictures` have unit variance and mean zero."""
    latents = module.taesd_encoder(pictures)
    # SD1.5 multiplies what the encoder gives by 0.18215 before the UNet sees it
    module.vae_scale.data.fill_(0.18215 * float(latents.std()))
    module.vae_shift.data.fill_(-float(latents.mean()) / float(module.vae_scale))
    return module
