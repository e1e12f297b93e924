"""Detectors as judges: what was found in a picture, with which score, and what of it counts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

CERTAIN = 1e-6


@dataclass(frozen=True)
class Detection:
    """Something that a detector found in a picture: its class, and the detector's score from 0 to 1."""

    kind: str
    score: float


Found = tuple[Detection, ...]
"""The detections in one picture."""


@dataclass(frozen=True)
class Detector:
    """`find` gives what is in each of the pictures (n, height, width, 3) in [0, 1]. Detections of `classes` with at least
    `threshold` count; one of them makes the picture one of the concept. `about` says which detector it is and what a reader
    of its counts must know; below `lowest` it finds nothing."""

    find: Callable[[Tensor], list[Found]]
    classes: tuple[str, ...]
    threshold: float
    lowest: float
    about: str

    def counted(self, found: Found, threshold: float | None = None) -> Found:
        """The detections that count, at another threshold if one is given."""
        least = self.threshold if threshold is None else threshold
        return tuple(one for one in found if one.kind in self.classes and one.score >= least)

    def scores(self, found: Sequence[Found]) -> Tensor:
        """Scores (n, 2) of "it is there" and "it is not", whose softmax is even where the best detection has just the
        threshold: the log odds of the best detection over those of the threshold, against 0."""
        best = [max((one.score for one in each if one.kind in self.classes), default=0.0) for each in found]
        there = [_odds(score) - _odds(self.threshold) for score in best]
        return torch.tensor([[value, 0.0] for value in there]).reshape(-1, 2)

    def text(self) -> str:
        """The classes and scores that it counts, for a report."""
        return f"it counts detections with a score of at least {self.threshold:g} of {', '.join(self.classes)}; {self.about}"


def _odds(score: float) -> float:
    score = min(1 - CERTAIN, max(CERTAIN, score))
    return math.log(score / (1 - score))
