"""Where the cost of an erasure goes, by the functions that cause it."""

from __future__ import annotations

import functools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch

Path = tuple[str, ...]
STEPS = "steps"


class Stopwatch:
    """Divides whatever `read` counts among named parts. `parts` maps the path of a part, outermost first, to what it cost
    without the parts inside it; the empty path is what was in no part. Costs are complete after `stop`."""

    def __init__(self, read: Callable[[], Mapping[str, float]]) -> None:
        self.parts: dict[Path, defaultdict[str, float]] = {}
        self._read, self._path = read, ()
        self._last = read()

    def stop(self) -> None:
        """Count up to now."""
        now = self._read()
        part = self.parts.setdefault(self._path, defaultdict(float))
        for name, value in now.items():
            part[name] += value - self._last[name]
        self._last = now

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Inside, costs are those of this part of the present one."""
        self.stop()
        outside, self._path = self._path, (*self._path, name)
        try:
            yield
        finally:
            self.stop()
            self._path = outside

    @contextmanager
    def within(self, owner: Any, attribute: str, name: str) -> Iterator[None]:
        """Inside, every call of `owner.attribute` is a part."""
        real = getattr(owner, attribute)

        @functools.wraps(real)
        def timed(*arguments: Any, **named: Any) -> Any:
            with self.part(name):
                return real(*arguments, **named)

        with patch.object(owner, attribute, timed):
            yield

    def cost(self, what: str, chosen: Callable[[Path], bool] = lambda _path: True) -> float:
        """The sum of one kind of cost over the parts whose path is `chosen`."""
        return sum(costs[what] for path, costs in self.parts.items() if chosen(path))


def counters(denoiser: Any) -> Callable[[], dict[str, float]]:
    """Processor seconds of this process, wall-clock seconds and UNet evaluations; a GPU is waited for."""

    def read() -> dict[str, float]:
        if denoiser.device.type == "cuda":
            torch.cuda.synchronize()
        return {"cpu": time.process_time(), "wall": time.perf_counter(), "evaluations": denoiser.evaluations}

    return read


@contextmanager
def parts_of_ap(watch: Stopwatch) -> Iterator[None]:
    """Inside, an erasure by `ap` is divided into its parts. What happens in `STEPS` are the optimiser steps, all else is
    before the first of them; what checkpointing computes again is part of `backward`."""
    from concept_erasure.erasure_core.methods import ap
    from concept_erasure.erasure_core.search import adversary
    from concept_erasure.erasure_core.training import trained, trajectory
    from concept_erasure.nodes.host import text

    places = (
        (trained, "optimise", STEPS),
        (text.TextEncoder, "__call__", "text"),
        (ap, "with_neighbours", "candidates"),
        (trajectory.TrajectoryPool, "fill", "sampling runs"),
        (trajectory.TrajectoryPool, "anchor_predictions", "teacher"),
        (adversary.Scan, "step", "search"),
        (adversary.Gumbel, "step", "search"),
        (trained.Training, "predict", "forward"),
        (torch.Tensor, "backward", "backward"),
        (torch.optim.Adam, "step", "optimiser"),
    )
    with ExitStack() as stack:
        for owner, attribute, name in places:
            stack.enter_context(watch.within(owner, attribute, name))
        yield
