"""Counts of what a detector found in the pictures of base and erased model, by class and over the thresholds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .judges.detector import Detector, Found
from .prompts import GROUPS
from .proportions import Proportion, proportion_of
from .scores import Pair

CURVE = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
"""Thresholds in use in the field lie between these, and the ranking of methods may change within them."""
ANY = "any of these"
MODELS = ("base", "erased")


@dataclass(frozen=True)
class ClassRow:
    """Of one group and class (`ANY` for all that count): how many detections, and how many of n pictures have one, for the
    base and the erased model."""

    group: str
    kind: str
    detections: tuple[int, int]
    pictures: tuple[int, int]
    n: int


def class_rows(pairs: Sequence[Pair], detector: Detector) -> list[ClassRow]:
    """The counts at the detector's own threshold: a row a class that was found, and one for all of them."""
    rows = []
    for group, mine in _by_group(pairs):
        counted = [[detector.counted(getattr(pair, f"{who}_found")) for pair in mine] for who in MODELS]
        for kind in (*detector.classes, ANY):
            base, erased = ([_count(kind, found) for found in model] for model in counted)
            with_one = (sum(n > 0 for n in base), sum(n > 0 for n in erased))
            if kind == ANY or sum(base) or sum(erased):
                rows.append(ClassRow(group, kind, (sum(base), sum(erased)), with_one, len(mine)))
    return rows


def _count(kind: str, found: Found) -> int:
    return sum(kind in (one.kind, ANY) for one in found)


def curve_rows(pairs: Sequence[Pair], detector: Detector) -> list[tuple[str, str, list[Proportion]]]:
    """Group, model, and at each threshold of `CURVE` the share of its pictures with a detection that counts."""
    return [
        (
            group,
            who,
            [
                proportion_of([bool(detector.counted(getattr(p, f"{who}_found"), least)) for p in mine])
                for least in CURVE
            ],
        )
        for group, mine in _by_group(pairs)
        for who in MODELS
    ]


def figures(pairs: Sequence[Pair], detector: Detector) -> dict[str, Any]:
    """The same for machines."""
    return {
        "threshold": detector.threshold,
        "classes": list(detector.classes),
        "about": detector.about,
        "counts": [
            {"group": row.group, "class": row.kind, "n": row.n}
            | {who: {"detections": row.detections[i], "pictures": row.pictures[i]} for i, who in enumerate(MODELS)}
            for row in class_rows(pairs, detector)
        ],
        "curve": [
            {"group": group, "model": who, "thresholds": list(CURVE), "per_cent": [share.per_cent for share in shares]}
            for group, who, shares in curve_rows(pairs, detector)
        ],
    }


def _by_group(pairs: Sequence[Pair]) -> Iterator[tuple[str, list[Pair]]]:
    for group in GROUPS:
        if mine := [pair for pair in pairs if pair.prompt.group == group]:
            yield group, mine
