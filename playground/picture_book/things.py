"""Which things are in the picture book, and their pictures as one tensor."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .sources import STYLES, Entry, Style, entries, picture
from .words import CATEGORIES, LEFT_OUT, SYNONYMS, every_caption, is_one_token

GROUPS = {3: "animals and nature", 4: "food and drink", 5: "travel and places", 7: "objects"}
SIDE = 64
MOST = 12
"""Things of one subgroup that a training on a CPU affords; on a GPU all are taken."""
FIRST = ("cat", "lion", "tiger", "leopard", "dog", "wolf", "fox", "horse", "zebra", "guitar", "violin")
"""Taken before the others of their subgroup: the look-alikes that the tables ask for."""
SMALLEST = 5
"""A subgroup with fewer things has no look-alikes to speak of."""
SAME_PICTURE = 0.07
"""Two things whose pictures differ by less than this (root mean square, of the nearest style) are one."""
ALIKE = ("o'clock", "thirty", " face", "moon", "oncoming", "banknote", "musical note", "departure", "arrival")
"""Parts of names that cannot be told apart at 64 pixels, or whose picture another thing has as well: clock faces, an animal
and its face, phases of the moon, notes of money."""


@dataclass(frozen=True)
class Thing:
    """One thing: its code points, its name, its group and subgroup (things of one subgroup are look-alikes)."""

    code: str
    name: str
    group: str
    subgroup: str

    @property
    def category(self) -> str:
        """The word for all things of its subgroup, or ""."""
        return CATEGORIES.get(self.subgroup, "")

    @property
    def mirrors(self) -> bool:
        """True if its mirror image shows it as well: no letters, no hands of a clock."""
        return self.group in (GROUPS[3], GROUPS[4])


def captions_of(things: Sequence[Thing]) -> list[str]:
    """All captions that pictures of these things can have."""
    return every_caption([thing.name for thing in things], [thing.category for thing in things])


def load(packages: Path, most: int | None = MOST) -> tuple[list[Thing], Tensor]:
    """The things of the book in the order of the data, and their pictures as `pictures` gives them.

    With `most`, the names that are one word and one token of the text encoder, at most so many of a subgroup; with None
    all usable names of one or two words.
    """
    things = usable(packages, most)
    drawn = pictures(packages, things)
    kept = distinct(drawn)
    return [things[row] for row in kept], drawn[kept]


def usable(packages: Path, most: int | None = MOST) -> list[Thing]:
    """Things of `GROUPS` with a name that tells them from all others and a picture in every style (see `load`)."""
    by_subgroup: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries(packages):
        if entry.group in GROUPS and _tells(entry.name, most) and all(picture(packages, s, entry.code) for s in STYLES):
            by_subgroup[entry.subgroup].append(entry)
    subgroups = [spread(group, most) for group in by_subgroup.values() if len(group) >= SMALLEST]
    return [Thing(e.code, e.name, GROUPS[e.group], e.subgroup) for group in subgroups for e in group]


def _tells(name: str, most: int | None) -> bool:
    if name in LEFT_OUT or any(part in name for part in ALIKE) or not all(map(str.isalpha, name.split())):
        return False
    return len(name.split()) <= 2 if most is None else is_one_token(name)


def spread(group: Sequence[Entry], most: int | None) -> list[Entry]:
    """`most` entries of a subgroup, in the order of the data: `FIRST`, half of the others with synonyms, the rest from all
    over."""
    if most is None or len(group) <= most:
        return list(group)
    chosen = {entry for entry in group if entry.name in FIRST}
    for share, wanted in ((0.5, SYNONYMS), (1.0, {entry.name for entry in group})):
        others = [entry for entry in group if entry.name in wanted and entry not in chosen]
        free = min(round(share * (most - len(chosen))), len(others))
        chosen |= {others[index * len(others) // free] for index in range(free)}
    return [entry for entry in group if entry in chosen]


def distinct(drawn: Tensor) -> list[int]:
    """Rows of pictures (things, styles, 4, 64, 64) that differ from every earlier row by `SAME_PICTURE` in each style."""
    flat = drawn.float().flatten(2).movedim(1, 0) / 255
    nearest = torch.stack([torch.cdist(style, style) for style in flat]).amin(0) / flat.shape[-1] ** 0.5
    kept: list[int] = []
    for row in range(len(drawn)):
        if all(nearest[row, earlier] >= SAME_PICTURE for earlier in kept):
            kept.append(row)
    return kept


def pictures(packages: Path, things: Iterable[Thing]) -> Tensor:
    """The pictures as they are in the packages: (things, styles, 4, 64, 64) bytes, colour times alpha and alpha."""
    from PIL import Image

    def drawn(style: Style, code: str) -> Tensor:
        path = picture(packages, style, code)
        if path is None:
            raise FileNotFoundError(f"{style.word} has no picture of {code}; take only things that every style has")
        with Image.open(path) as file:
            return premultiplied(np.array(file.convert("RGBA").resize((SIDE, SIDE), Image.Resampling.LANCZOS)))

    return torch.stack([torch.stack([drawn(style, thing.code) for style in STYLES]) for thing in things])


def premultiplied(pixels: np.ndarray) -> Tensor:
    """(4, height, width) bytes of an RGBA picture, colour multiplied by alpha.

    Moving and scaling a picture then does not draw the hidden colour of its clear parts.
    """
    colour, alpha = torch.from_numpy(pixels).permute(2, 0, 1).split([3, 1])
    return torch.cat([(colour.float() * alpha / 255).round().to(torch.uint8), alpha])
