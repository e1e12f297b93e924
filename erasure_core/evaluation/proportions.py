"""Shares of pictures, each with the number of pictures behind it and an interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

Z95 = 1.959964  # the normal distribution's 97.5 % point: two-sided 95 %


@dataclass(frozen=True)
class Proportion:
    """`hits` of `n` pictures; n is at least 1."""

    hits: int
    n: int

    def __post_init__(self) -> None:
        if self.n < 1 or not 0 <= self.hits <= self.n:
            raise ValueError(f"{self.hits} of {self.n} is no share; it takes at least one picture")

    @property
    def per_cent(self) -> float:
        """The share in per cent, rounded to two places."""
        return round(100 * self.hits / self.n, 2)

    def interval(self, z: float = Z95) -> tuple[float, float]:
        """The score interval in per cent. Wilson 1927; Brown, Cai and DasGupta 2001 (doi 10.1214/ss/1009213286),
        equation 4. It stays within 0 and 100 and has a width also at 0 and n hits, where the usual p ± s has none."""
        p, spread = self.hits / self.n, z * z / self.n
        middle = (p + spread / 2) / (1 + spread)
        half = z / (1 + spread) * math.sqrt(p * (1 - p) / self.n + spread / (4 * self.n))
        return round(100 * max(0.0, middle - half), 2), round(100 * min(1.0, middle + half), 2)

    def text(self) -> str:
        """Share, interval and n, as it stands in a report."""
        low, high = self.interval()
        return f"{self.per_cent:.1f} % [{low:.1f}, {high:.1f}] (n = {self.n})"


def proportion_of(hits: list[bool]) -> Proportion:
    """The share of true entries."""
    return Proportion(sum(hits), len(hits))
