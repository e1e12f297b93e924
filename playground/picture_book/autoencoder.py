"""The picture book's autoencoder: the shapes' own, trained on with renderings of things."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ..autoencoder import reconstruction_error, scaled
from ..training import Schedule, train
from ..weights import stored_autoencoder
from .drawing import Book

SCHEDULE = Schedule(steps=4000, batch=16, learning_rate=6e-4, ema=0.998, weight_decay=0.0)


def train_autoencoder(folder: Path, book: Book, schedule: Schedule = SCHEDULE) -> nn.Module:
    """Train (or go on training) the autoencoder, from the weights that know lines and plain colours already."""
    module = stored_autoencoder().train().to(memory_format=torch.channels_last)
    module.requires_grad_(True)
    module.vae_scale.requires_grad_(False)
    module.vae_shift.requires_grad_(False)

    def loss(batch: int, generator: torch.Generator) -> Tensor:
        batch_of = book.random(batch, generator)
        return reconstruction_error(module, batch_of.pictures, batch_of.drawn, generator)

    averaged = train("autoencoder", module, loss, schedule, seed=2, checkpoint=folder / "autoencoder.pt")
    return scaled(averaged, book.random(512, torch.Generator().manual_seed(3)).pictures)
