"""The picture book's judges: which thing a picture shows, and in which style, in transformers format."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..judge import new_classifier, roughen, top_labels
from ..training import Schedule, fast_precision, train
from .drawing import Book, Rendering
from .sources import STYLES
from .things import Thing

if TYPE_CHECKING:
    from comfy.taesd.taesd import TAESD
    from transformers import ResNetForImageClassification

FACTORS = ("thing", "style")
LATENT_NOISE = 0.35
FIRST = {
    "thing": Schedule(steps=2000, batch=48, learning_rate=2e-3, ema=0.99),
    "style": Schedule(steps=700, batch=48, learning_rate=2e-3, ema=0.99),
}
SCHEDULE = Schedule(steps=800, batch=48, learning_rate=1.5e-3, ema=0.99)
FRESH = 2000
"""Renderings on which a judge is measured."""
SAVE_EVERY = 100


def labels(factor: str, things: Sequence[Thing]) -> tuple[str, ...]:
    """What a judge can say: the names of the things, or the words of the styles."""
    return tuple(thing.name for thing in things) if factor == "thing" else tuple(style.word for style in STYLES)


def new_judge(names: tuple[str, ...]) -> ResNetForImageClassification:
    """A judge of about 1 M parameters that says one of `names`."""
    return new_classifier(names, (32, 64, 128, 192))


def truth(rendering: Rendering, factor: str) -> Tensor:
    """True label indices (n,)."""
    return rendering.thing if factor == "thing" else rendering.style


def train_first_judge(folder: Path, book: Book, factor: str) -> ResNetForImageClassification:
    """Train (or go on training) a judge that knows only renderings, at most blurred: it measures the autoencoder, whose
    faults it has not learned."""
    return _train(
        f"first_judge_{factor}", new_judge(labels(factor, book.things)), folder, book, factor, FIRST[factor], None
    )


def train_judge(
    folder: Path, book: Book, factor: str, first: ResNetForImageClassification, autoencoder: TAESD
) -> ResNetForImageClassification:
    """Train the first judge on (or go on training it), with half of the renderings out of the autoencoder, from latents
    that are a little off, as a model's pictures are. It never sees a picture of the diffusion model."""
    module = copy.deepcopy(first).train().requires_grad_(True)
    return _train(f"judge_{factor}", module, folder, book, factor, SCHEDULE, autoencoder)


def _train(
    name: str,
    module: ResNetForImageClassification,
    folder: Path,
    book: Book,
    factor: str,
    schedule: Schedule,
    autoencoder: TAESD | None,
) -> ResNetForImageClassification:
    def loss(batch: int, generator: torch.Generator) -> Tensor:
        rendering = book.random(batch, generator)
        # not moved: the pictures reach the edges, and are moved when they are rendered
        pictures = roughen(rendering.pictures, autoencoder, LATENT_NOISE, generator, shift=0)
        with fast_precision():
            logits = module(pixel_values=(pictures - 0.5) / 0.5).logits.float()
        return nn.functional.cross_entropy(logits, truth(rendering, factor), label_smoothing=0.05)

    return train(name, module, loss, schedule, seed=12, checkpoint=folder / f"{name}.pt", save_every=SAVE_EVERY)


@dataclass(frozen=True)
class Accuracy:
    """Shares of n pictures in which a judge's first answer is right, and one of its first five."""

    top1: float
    top5: float
    n: int


@torch.no_grad()
def accuracy(judge: nn.Module, pictures: Tensor, right: Tensor, batch: int = 128) -> Accuracy:
    """How often `judge` says `right` (n,) of pictures (n, 3, 64, 64) in [0, 1]."""
    hits = top_labels(judge, pictures, 5, batch) == right[:, None]
    return Accuracy(float(hits[:, 0].float().mean()), float(hits.any(1).float().mean()), len(right))
