"""The picture book's UNet: the shapes' layout, trained on latents of renderings, first with the words and then alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..training import Schedule, fast_precision, train
from ..unet import alphas_cumprod, new_unet, noise_loss
from .drawing import Book
from .sources import STYLES
from .text import Words, hidden_states, seeded_weights, seen, used_tokens
from .things import captions_of
from .words import random_caption, token_ids

if TYPE_CHECKING:
    from comfy.taesd.taesd import TAESD

WITH_WORDS = Schedule(steps=2000, batch=32, learning_rate=6e-4, ema=0.998)
ALONE = Schedule(steps=10800, batch=32, learning_rate=6e-4, ema=0.9985)
RENDERINGS = 24
"""Of each picture; their latents are kept, for the encoder is as slow as the UNet."""
SAID = 32
"""Captions of each picture from which the words learn where to start."""
A_CAPTION = 2
"""Pictures that share a caption in a batch: encoding captions takes as long as learning from a picture."""
SAVE_EVERY = 100


class Drawer(nn.Module):
    """The UNet and the words that it is asked in."""

    def __init__(self, words: Words) -> None:
        super().__init__()
        self.unet, self.words = new_unet(), words


@dataclass(frozen=True)
class Latents:
    """Latents (things * styles * RENDERINGS, 4, 8, 8) of a book, as the UNet sees them, in this order."""

    book: Book
    values: Tensor

    @staticmethod
    @torch.no_grad()
    def of(book: Book, autoencoder: TAESD, seed: int = 22, batch: int = 63) -> Latents:
        """Render and encode a whole book."""
        rows = torch.arange(len(book.things) * len(STYLES)).repeat_interleave(RENDERINGS)
        generator, parts = torch.Generator().manual_seed(seed), []
        for part in rows.split(batch):
            pictures = book.render(part // len(STYLES), part % len(STYLES), generator).pictures
            with fast_precision():
                # Stable Diffusion's scale, which ComfyUI applies to what the autoencoder gives
                parts.append(autoencoder.encode(pictures * 2 - 1).float() * 0.18215)
        return Latents(book, torch.cat(parts))

    def batch(self, n: int, generator: torch.Generator) -> tuple[Tensor, list[str]]:
        """n latents (n, 4, 8, 8) and n / `A_CAPTION` captions, each of `A_CAPTION` latents that follow one another."""
        thing = torch.randint(len(self.book.things), (n // A_CAPTION,), generator=generator)
        style = torch.randint(len(STYLES), (n // A_CAPTION,), generator=generator)
        one_of = torch.randint(RENDERINGS, (n // A_CAPTION, A_CAPTION), generator=generator)
        rows = (thing * len(STYLES) + style)[:, None] * RENDERINGS + one_of
        captions = [self.caption(t, s, generator) for t, s in zip(thing.tolist(), style.tolist(), strict=True)]
        return self.values[rows.flatten()], captions

    def caption(self, thing: int, style: int, generator: torch.Generator) -> str:
        """A caption of a thing in a style, both by number."""
        shown = self.book.things[thing]
        return random_caption(shown.name, shown.category, STYLES[style].word, generator)

    def words(self) -> Words:
        """The words of the book's captions, where its pictures put them."""
        generator = torch.Generator().manual_seed(26)
        pictures = self.values.unflatten(0, (-1, RENDERINGS)).mean(1).flatten(1).repeat_interleave(SAID, 0)
        captions = [
            self.caption(row // len(STYLES), row % len(STYLES), generator)
            for row in range(len(pictures) // SAID)
            for _ in range(SAID)
        ]
        tokens = used_tokens(captions_of(self.book.things))
        return Words(tokens, seeded_weights(), seen(tokens, captions, pictures))


def train_with_words(folder: Path, latents: Latents, schedule: Schedule = WITH_WORDS) -> Drawer:
    """Train (or go on training) the UNet together with the embeddings of the words."""
    drawer = Drawer(latents.words())

    def encode(captions: list[str]) -> Tensor:
        with fast_precision():
            return drawer.words(token_ids(captions))

    loss = _loss(drawer.unet, latents, encode)
    return train("words", drawer, loss, schedule, seed=23, checkpoint=folder / "words.pt", save_every=SAVE_EVERY)


def train_alone(folder: Path, latents: Latents, drawer: Drawer, schedule: Schedule = ALONE) -> nn.Module:
    """Train the UNet of `drawer` on (or go on training it), the words fixed: a step costs half as much."""
    captions = captions_of(latents.book.things)
    states, row_of = hidden_states(drawer.words, captions), {text: row for row, text in enumerate(captions)}
    unet = drawer.unet.train().requires_grad_(True)
    loss = _loss(unet, latents, lambda captions: states[[row_of[text] for text in captions]])
    return train("unet", unet, loss, schedule, seed=24, checkpoint=folder / "unet.pt", save_every=SAVE_EVERY)


def _loss(
    unet: nn.Module, latents: Latents, encode: Callable[[list[str]], Tensor]
) -> Callable[[int, torch.Generator], Tensor]:
    levels = alphas_cumprod()

    def loss(batch: int, generator: torch.Generator) -> Tensor:
        values, captions = latents.batch(batch, generator)
        context = encode(captions).repeat_interleave(A_CAPTION, 0)
        return noise_loss(unet, values, context, levels, generator)

    return loss
