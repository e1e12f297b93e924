"""Which things are in the picture book, and their pictures as one tensor."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .sources import STYLES, Entry, entries, picture

GROUPS = {3: "animals and nature", 4: "food and drink", 5: "travel and places", 7: "objects"}
SIDE = 64
MOST = 12
"""Things of one subgroup that a training on a CPU affords; on a GPU all are taken."""
SMALLEST = 5
"""A subgroup with fewer things has no look-alikes to speak of."""
ALIKE = ("o’clock", "thirty", " face", "moon", "oncoming", "banknote", "book", "musical note", "departure", "arrival")
"""Words of names that cannot be told apart at 64 pixels, or whose picture another thing has as well: clock faces, an animal
and its face, phases of the moon, notes of money."""


@dataclass(frozen=True)
class Thing:
    """One thing: its name, other words for it, its group and subgroup (things of one subgroup are look-alikes)."""

    code: str
    name: str
    synonyms: tuple[str, ...]
    group: str
    subgroup: str

    @property
    def mirrors(self) -> bool:
        """True if its mirror image shows it as well: no letters, no hands of a clock."""
        return self.group in (GROUPS[3], GROUPS[4])


def usable(packages: Path, most: int | None = MOST) -> list[Thing]:
    """The things of `GROUPS` with a name of one word (two where all are taken) and a picture in every style, at most
    `most` of a subgroup, in the order of the data. None takes all."""
    words = 2 if most is None else 1
    by_subgroup: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries(packages):
        if entry.group not in GROUPS or len(entry.name.split()) > words or any(word in entry.name for word in ALIKE):
            continue
        if all(picture(packages, style, entry.code) for style in STYLES):
            by_subgroup[entry.subgroup].append(entry)
    kept = [entry for group in by_subgroup.values() if len(group) >= SMALLEST for entry in group[:most]]
    return [Thing(e.code, e.name.lower(), synonyms(e, kept), GROUPS[e.group], e.subgroup) for e in kept]


def synonyms(entry: Entry, others: Sequence[Entry]) -> tuple[str, ...]:
    """The tags of a thing that no other thing has and that name no other: words that mean it alone."""
    taken = {word.lower() for other in others if other is not entry for word in (other.name, *other.tags)}
    return tuple(tag for tag in entry.tags if tag.isalpha() and len(tag) > 2 and tag.lower() not in taken | {entry.name.lower()})


def pictures(packages: Path, things: Sequence[Thing]) -> Tensor:
    """The pictures as they are in the packages: (things, styles, 4, 64, 64) bytes, colour times alpha and alpha.

    Colour is multiplied by alpha so that moving and scaling a picture does not draw the hidden colour of its clear parts.
    """
    from PIL import Image

    whole = torch.empty(len(things), len(STYLES), 4, SIDE, SIDE, dtype=torch.uint8)
    for row, thing in enumerate(things):
        for column, style in enumerate(STYLES):
            opened = Image.open(picture(packages, style, thing.code)).convert("RGBA").resize((SIDE, SIDE), Image.LANCZOS)
            pixels = torch.from_numpy(np.array(opened)).permute(2, 0, 1)
            alpha = pixels[3:].float() / 255
            whole[row, column] = torch.cat([(pixels[:3].float() * alpha).round().to(torch.uint8), pixels[3:]])
    return whole
