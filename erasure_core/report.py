"""What a running erasure tells its host, and what it remembers for the user."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

Check = Callable[..., None]
"""Asked in long stretches without an optimiser step, as `check()` or with words for the user, `check("encoding words, 32
of 136")`; it may raise to cancel."""


def unwatched(*_arguments: object) -> None:
    """The default of every callback: nobody listens."""


@dataclass
class Report:
    """Progress, losses, notes and costs of one run.

    `on_progress(step, total, loss)` is called after each optimiser step and `check` (`Check`) between them and before
    the first; either may raise to cancel. `on_preview(step)` is called while the deltas are attached.
    """

    on_progress: Callable[[int, int, float], None] = unwatched
    on_preview: Callable[[int], None] = unwatched
    check: Check = unwatched
    losses: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    notes: list[str] = field(default_factory=list)
    costs: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    adversarial: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    started: float = field(default_factory=time.monotonic)

    def note(self, text: str) -> None:
        """Something the user should read in the report."""
        self.notes.append(text)

    def log(self, terms: dict[str, float]) -> None:
        """The named loss terms of one optimiser step."""
        for name, value in terms.items():
            self.losses[name].append(value)

    def seconds(self) -> float:
        """Wall-clock seconds since the run began."""
        return time.monotonic() - self.started

    def text(self) -> str:
        """The report in Markdown."""
        rows = [f"- took {self.seconds():.1f} s"]
        rows += [f"- {name.replace('_', ' ')}: {value:,.0f}" for name, value in self.costs.items()]
        for name, values in self.losses.items():
            share = max(1, len(values) // 10)
            first, last = sum(values[:share]) / share, sum(values[-share:]) / share
            rows.append(f"- loss `{name}`: {first:.4g} at the start, {last:.4g} at the end (mean of {share} steps)")
        if self.adversarial:
            worst = sorted(self.adversarial.items(), key=lambda item: -item[1])[:12]
            rows.append("- preserved as adversarial concepts: " + ", ".join(f"{w or '(empty)'} ×{n}" for w, n in worst))
        return "\n".join(rows + [f"- {note}" for note in self.notes])
