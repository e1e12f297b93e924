"""The picture book's autoencoder: the shapes' own, trained on with renderings of things."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..autoencoder import reconstruction_error, scaled
from ..training import Schedule, channels_last, fast_precision, train
from ..weights import stored_autoencoder
from .drawing import Book

if TYPE_CHECKING:
    from comfy.taesd.taesd import TAESD

SCHEDULE = Schedule(steps=1200, batch=16, learning_rate=6e-4, ema=0.998, weight_decay=0.0)
DECODER = Schedule(steps=1600, batch=16, learning_rate=6e-4, ema=0.998, weight_decay=0.0)
SAVE_EVERY = 100


def train_autoencoder(folder: Path, book: Book, schedule: Schedule = SCHEDULE) -> TAESD:
    """Train (or go on training) the autoencoder, from the weights that know lines and plain colours already."""
    module = channels_last(stored_autoencoder().train())
    module.requires_grad_(True)
    module.vae_scale.requires_grad_(False)
    module.vae_shift.requires_grad_(False)

    checkpoint = folder / "autoencoder.pt"
    averaged = train("autoencoder", module, _loss(module, book), schedule, 2, checkpoint, SAVE_EVERY)
    return scaled(averaged, book.random(512, torch.Generator().manual_seed(3)).pictures)


def train_decoder(folder: Path, book: Book, autoencoder: TAESD, schedule: Schedule = DECODER) -> TAESD:
    """Train the decoder alone (or go on training it), for sharper pictures: latents, and a UNet that knows them, stay valid."""
    module = channels_last(copy.deepcopy(autoencoder).train().requires_grad_(False))
    module.taesd_decoder.requires_grad_(True)
    return train("decoder", module, _loss(module, book), schedule, 4, folder / "decoder.pt", SAVE_EVERY)


def _loss(module: TAESD, book: Book) -> Callable[[int, torch.Generator], Tensor]:
    def loss(batch: int, generator: torch.Generator) -> Tensor:
        rendering = book.random(batch, generator)
        return reconstruction_error(module, rendering.pictures, rendering.drawn, generator)

    return loss


@torch.no_grad()
def reconstructed(autoencoder: TAESD, pictures: Tensor, batch: int = 64) -> Tensor:
    """Pictures (n, 3, 64, 64) as they come back from the autoencoder."""
    parts = []
    for part in pictures.split(batch):
        with fast_precision():
            parts.append(autoencoder.taesd_decoder(autoencoder.taesd_encoder(part)).float().clamp(0, 1))
    return torch.cat(parts)
