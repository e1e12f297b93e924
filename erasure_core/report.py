"""Progress, cancelling, notes and costs of a running erasure."""

from __future__ import annotations

import dataclasses
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

Check = Callable[..., None]
"""Asked in long stretches without an optimiser step, as `check()` or with words for the user, `check("encoding words, 32
of 136")`; it may raise to cancel."""


TEXT, EVALUATIONS, STEPS = "text", "evaluations", "steps"
"""Kinds of work: prompts to encode, evaluations of the network on one sample, optimiser steps."""
Work = Mapping[str, tuple[float, float]]
"""Kind of work -> how much of it a run has to do, and what one costs beside an evaluation of the network."""
TEXT_EVERY = 1.0
"""Seconds between two messages to the user, at least."""
_GUESS, _SETTLED, _LAST = 0.05, 3.0, 0.03


def unwatched(*_arguments: object, **_named: object) -> None:
    """The default of every callback: nobody listens."""


class Progress:
    """How far a whole run is, encoding and sampling included: a share that grows from 0 to 1, and the time that is left.

    The run reports its work as it is done, `progress("sampling", evaluations=32)`. `left` holds how much of each kind of
    work is still to be done; it may be corrected at any time. The speed of each kind is measured, and guessed from the others
    before that. The share moves by (1 - share) dt / (dt + seconds left): a wrong plan lets it move faster or slower, and
    never back.

    `show(share)` is called with every report; `say(text)`, with the time left behind it, at most every
    `TEXT_EVERY` seconds of `clock`.
    """

    def __init__(
        self,
        work: Work | None = None,
        show: Callable[[float], object] = unwatched,
        say: Callable[[str], object] = unwatched,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.left: dict[str, float] = {}
        self._costs: dict[str, float] = {}
        self.plan(work or {})
        self.share, self._doing = 0.0, ""
        self._show, self._say, self._clock = show, say, clock
        self._seconds: dict[str, float] = defaultdict(float)
        self._done: dict[str, float] = defaultdict(float)
        self._reached: dict[str, int] = defaultdict(int)
        self._began = self._last = clock()
        self._uncounted, self._shown_at = 0.0, float("-inf")

    def plan(self, work: Work) -> None:
        """Plan this work, in place of what was planned for its kinds."""
        self.left |= {kind: float(count) for kind, (count, _) in work.items()}
        self._costs |= {kind: cost for kind, (_, cost) in work.items()}

    def __call__(self, doing: str = "", **done: float) -> None:
        """Something is being done (`doing`, in words), or so many of each kind of work were done since the last call."""
        now = self._clock()
        passed, self._last = now - self._last, now
        self._uncounted += passed
        for kind, count in done.items():
            if self._done[STEPS] and not self.left.get(kind):
                continue  # part of a step: its time is the step's
            self._seconds[kind] += self._uncounted
            self._done[kind] += count
            self.left[kind] = max(0.0, self.left.get(kind, 0.0) - count)
            self._uncounted = 0.0
        if passed > 0:
            self.share = min(0.99, self.share + (1 - self.share) * passed / (passed + self.seconds_left()))
        self._show(self.share)
        self._doing = doing or self._doing
        if self._doing and now - self._shown_at >= TEXT_EVERY:
            self._shown_at = now
            settled = now - self._began >= _SETTLED
            self._say(self._doing + (f", about {duration(self.seconds_left())} left" if settled else ""))

    def reached(self, doing: str, step: int, total: int, kind: str = STEPS) -> None:
        """Step `step` of `total` of a kind of work was reached; they may be counted anew from 1."""
        before, self._reached[kind] = self._reached[kind], step
        count = step - before if step > before else step
        self.left[kind] = max(self.left.get(kind, 0.0), float(total - step + count))
        self(doing, **{kind: count})

    def seconds_left(self) -> float:
        """Seconds to the end, as far as is known: never nothing before the end."""
        known = [EVALUATIONS] if self._done.get(EVALUATIONS) else list(self._done)
        cost = sum(self._cost(kind) * self._done[kind] for kind in known)
        each = sum(self._seconds[kind] for kind in known) / cost if cost else 0.0
        if known != [EVALUATIONS]:
            each = max(each, _GUESS)  # text that was read from the cache took no time

        def rate(kind: str) -> float:
            return self._seconds[kind] / self._done[kind] if self._done.get(kind) else each * self._cost(kind)

        planned = sum(count * rate(kind) for kind, count in self.left.items() if count)
        return max(planned, _LAST * (self._last - self._began), 1e-3)

    def _cost(self, kind: str) -> float:
        return self._costs.get(kind, 1.0)

    def finish(self) -> None:
        """The run is over."""
        self.share = 1.0
        self._show(self.share)


def duration(seconds: float) -> str:
    """Seconds as people say them: 40 s, 8 min, 1 h 20 min."""
    if seconds < 55:
        return f"{max(5, 5 * round(seconds / 5))} s"
    minutes = max(1, round(seconds / 60))
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


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


def part_of(report: Report, done: int, total: int | None = None) -> Report:
    """The same report for a part of a run: its progress counts from `done`, of `total` steps where that is given."""

    def on_progress(step: int, steps: int, loss: float) -> None:
        report.on_progress(done + step, steps if total is None else total, loss)

    def on_preview(step: int) -> None:
        report.on_preview(done + step)

    return dataclasses.replace(report, on_progress=on_progress, on_preview=on_preview)
