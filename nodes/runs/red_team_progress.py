"""The progress of attacks: what they have to do, and how far they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from ...erasure_core.red_team.attack import Attack
from ...erasure_core.report import EVALUATIONS, STEPS, TEXT, Report, Work
from .. import host
from .progress import NodeProgress

COSTS = {TEXT: 1.0, EVALUATIONS: 1.0, STEPS: 6.0}
"""Of a prompt's text, a sampling step of a picture, and a step of an attack's search, before they are measured."""


@contextmanager
def attacking(
    model: object,
    what: str,
    progress: NodeProgress | None = None,
    done: Callable[[], int] = int,
    plans: Sequence[Work] = (),
) -> Iterator[Report]:
    """A report for attacks that shows their progress, `done()` of them, each planned in `plans`, being over; afterwards the
    base model's weights are in place."""
    progress, over = progress or NodeProgress(None), 0

    def check(doing: str = "", **counts: float) -> None:
        nonlocal over
        if plans and done() > over:
            over = done()  # what was planned for those that are over, and was not needed, is dropped
            progress.plan(together(plans[over:]))
        progress.check(doing, **counts)

    def on_progress(step: int, total: int, _loss: float) -> None:
        progress.reached(f"search step {step} of {total}", step, total)

    try:
        with host.memory_errors(f"attacking with {what}", "batch_size, width and height"):
            yield Report(on_progress=on_progress, check=check)
            progress.finish()
    finally:  # clones share one network, which has the erased weights now
        host.use(model)


def together(plans: Sequence[Work]) -> Work:
    """The work of several plans of `work_of`."""
    return {kind: (sum(plan[kind][0] for plan in plans), cost) for kind, cost in COSTS.items()}


def work_of(attacks: Sequence[Attack], n: int, sampling_steps: int) -> list[Work]:
    """About what each attack of n attempts has to do, its control included. The first has the plain prompts before it."""
    plans = []
    for number, attack in enumerate(attacks):
        pictures = 2 * n * getattr(attack, "tries", 1) + (0 if number else 2 * n)
        searched = getattr(attack, "steps", getattr(attack, "generations", 0))
        counts = {TEXT: n, EVALUATIONS: pictures * sampling_steps, STEPS: searched}
        plans.append({kind: (count, COSTS[kind]) for kind, count in counts.items()})
    return plans
