"""The picture book's judges: which thing a picture shows, and in which style, in transformers format."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..judge import roughen
from ..training import Schedule, fast_precision, train
from .drawing import Book, Rendering
from .sources import STYLES

FACTORS = ("thing", "style")
LATENT_NOISE = 0.35
SCHEDULES = {
    "thing": Schedule(steps=3000, batch=48, learning_rate=2e-3, ema=0.995),
    "style": Schedule(steps=800, batch=48, learning_rate=2e-3, ema=0.99),
}
FRESH = 2000


def labels(factor: str, book: Book) -> tuple[str, ...]:
    """What a judge can say: the names of the things, or the words of the styles."""
    return tuple(thing.name for thing in book.things) if factor == "thing" else tuple(style.word for style in STYLES)


def new_judge(names: tuple[str, ...]) -> nn.Module:
    """A residual network of about 1 M parameters whose label map is `names`."""
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(
        embedding_size=32,
        hidden_sizes=[32, 64, 128, 192],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        return ResNetForImageClassification(config)


def truth(rendering: Rendering, factor: str) -> Tensor:
    """True label indices (n,)."""
    return rendering.thing if factor == "thing" else rendering.style


def train_judge(folder: Path, book: Book, factor: str, autoencoder: nn.Module | None) -> nn.Module:
    """Train (or go on training) a judge on fresh renderings only; it never sees a picture of the diffusion model.

    With an autoencoder half of the renderings come out of it, from latents that are a little off, as a model's pictures
    do; without one they are only blurred: that judge measures the autoencoder, and has not learned its faults.
    """
    module = new_judge(labels(factor, book))

    def loss(batch: int, generator: torch.Generator) -> Tensor:
        rendering = book.random(batch, generator)
        noise = LATENT_NOISE if autoencoder is not None else 0.0
        pictures = roughen(rendering.pictures, autoencoder, noise, generator)
        with fast_precision():
            logits = module(pixel_values=(pictures - 0.5) / 0.5).logits.float()
        return nn.functional.cross_entropy(logits, truth(rendering, factor), label_smoothing=0.05)

    name = f"judge_{factor}" if autoencoder is not None else f"first_judge_{factor}"
    return train(name, module, loss, SCHEDULES[factor], seed=12, checkpoint=folder / f"{name}.pt")


@dataclass(frozen=True)
class Accuracy:
    """Shares of n pictures in which a judge's first answer is right, and one of its first five."""

    top1: float
    top5: float
    n: int


@torch.no_grad()
def accuracy(judge: nn.Module, pictures: Tensor, right: Tensor, batch: int = 128) -> Accuracy:
    """How often `judge` says `right` (n,) of pictures (n, 3, 64, 64) in [0, 1]."""
    answers = []
    for part in pictures.split(batch):
        logits = judge(pixel_values=(part - 0.5) / 0.5).logits
        answers.append(logits.topk(min(5, logits.shape[1]), dim=-1).indices)
    hits = torch.cat(answers) == right[:, None]
    return Accuracy(float(hits[:, 0].float().mean()), float(hits.any(1).float().mean()), len(right))


@torch.no_grad()
def reconstructed(autoencoder: nn.Module, pictures: Tensor, batch: int = 64) -> Tensor:
    """Pictures (n, 3, 64, 64) as they come back from the autoencoder."""
    parts = []
    for part in pictures.split(batch):
        with fast_precision():
            parts.append(autoencoder.taesd_decoder(autoencoder.taesd_encoder(part)).float().clamp(0, 1))
    return torch.cat(parts)
