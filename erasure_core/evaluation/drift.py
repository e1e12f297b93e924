"""How far an edit moves what it should leave alone: the same noise drawn by the base and by the erased model."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from .proportions import Z95


def mean_square(one: Tensor, other: Tensor) -> Tensor:
    """Mean squared difference of each pair of pictures or latents (n, ...), as (n,)."""
    return (one - other).square().flatten(1).mean(1)


def per_cent(mean_square: float) -> float:
    """Root of a mean square, in per cent: for pictures in [0, 1] of the full range, for latents in model space of about
    their standard deviation."""
    return round(100 * math.sqrt(max(0.0, float(mean_square))), 2)


@dataclass(frozen=True)
class Drift:
    """Root mean square difference over n pairs in per cent, with a 95 % interval; `nan` bounds for a single pair."""

    value: float
    low: float
    high: float
    n: int

    def text(self) -> str:
        """Drift, interval and n, as it stands in a report."""
        between = "" if math.isnan(self.low) else f" [{self.low:.2f}, {self.high:.2f}]"
        return f"{self.value:.2f} %{between} (n = {self.n})"


def drift_of(squares: Sequence[float]) -> Drift:
    """The drift of pairs with these mean squares: the normal interval of their mean, then its root."""
    mean = statistics.fmean(squares)
    if len(squares) < 2:
        return Drift(per_cent(mean), math.nan, math.nan, len(squares))
    half = Z95 * statistics.stdev(squares) / math.sqrt(len(squares))
    return Drift(per_cent(mean), per_cent(mean - half), per_cent(mean + half), len(squares))
