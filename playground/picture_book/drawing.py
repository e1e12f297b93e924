"""Fresh renderings of things: on a light ground, moved, scaled, and mirrored where that is harmless."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..drawing import BACKGROUND
from .things import SIDE, Thing

SCALES = (56 / SIDE, 60 / SIDE)
MOVE = 2.0
"""Pixels that a picture is moved by at most, in each direction."""


@dataclass(frozen=True)
class Rendering:
    """A batch of renderings: which thing and style (n,), pictures (n, 3, 64, 64) in [0, 1], and how much of each pixel is
    drawn (n, 1, 64, 64)."""

    thing: Tensor
    style: Tensor
    pictures: Tensor
    drawn: Tensor


class Book:
    """Things and their pictures, from which batches are rendered."""

    def __init__(self, things: list[Thing], pictures: Tensor) -> None:
        """`pictures` (things, styles, 4, 64, 64) as `things.load` gives them."""
        self.things, self._pictures = things, pictures
        self._mirrors = torch.tensor([thing.mirrors for thing in things])

    def random(self, n: int, generator: torch.Generator) -> Rendering:
        """n renderings of things and styles drawn at random."""
        thing = torch.randint(len(self.things), (n,), generator=generator)
        style = torch.randint(self._pictures.shape[1], (n,), generator=generator)
        return self.render(thing, style, generator)

    def render(self, thing: Tensor, style: Tensor, generator: torch.Generator) -> Rendering:
        """These things in these styles (n,), placed at random."""
        n = len(thing)
        low, high = SCALES
        scale = low + (high - low) * torch.rand(n, generator=generator)
        # affine_grid maps places of the result to places of the source: the inverse of scale and move
        matrix = torch.zeros(n, 2, 3)
        mirrored = self._mirrors[thing] & (torch.rand(n, generator=generator) < 0.5)
        matrix[:, 0, 0] = torch.where(mirrored, -1.0, 1.0) / scale
        matrix[:, 1, 1] = 1 / scale
        matrix[:, :, 2] = (2 * torch.rand(n, 2, generator=generator) - 1) * MOVE * 2 / SIDE
        source = self._pictures[thing, style].float() / 255
        placed = F.grid_sample(
            source, F.affine_grid(matrix, list(source.shape), align_corners=False), align_corners=False
        )
        alpha = placed[:, 3:]
        return Rendering(thing, style, placed[:, :3] + BACKGROUND * (1 - alpha), alpha)
