"""`make bench-speed`: `ap` against its published loop, `ap_reference`, on the playground, cost and quality side by side.

Both run at their defaults. The published loop also holds what the published code holds: a second copy of the UNet, and
gradients of all its weights. Memory is counted in short runs of their own, to the byte and whatever the allocator does,
because counting slows them down. Prints a Markdown table and, as its last line, one JSON object; every ratio is ap_reference
over ap. `--updates N` stops ap_reference after N of its optimiser steps. Its cost is then scaled up to all of them, for
its loops are alike but for the noise level that each draws; its quality is that of an unfinished run, and counts in no mean.
A whole run of it that is among `--rows` is taken all the same.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import os
import statistics
import time
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from operator import itemgetter
from typing import Any

import torch

from devtools.pages import markdown_table
from testbed import measure
from testbed.playground import Playground, load_playground

from .instruments import runs
from .instruments.peak_tensor_memory import LiveMemory
from .instruments.runs import Row

TARGETS = ("circle", "star", "red")
SEEDS = (0, 1)
METHODS = OURS, PUBLISHED = "ap", "ap_reference"
NO_CACHE = ("CONCEPT_ERASURE_TEXT_CACHE", "off")
COSTS = {"UNet_evaluations": "unet_evaluations_ratio", "seconds": "wall_ratio"}
"""The costs of a run, each with the name of its ratio."""
QUALITIES = ("esr1", "psr1")
MEMORY = "memory"
MEMORY_STEPS = 3
BY = "make bench-speed ARGS=--write"


@contextmanager
def as_published(denoiser: Any) -> Iterator[float]:
    """Hold what the published code holds besides: a second copy of the UNet in float32, and a gradient of every weight, which
    stays from one step to the next, because its optimiser clears only those that it trains. Gives their megabytes."""
    unet = denoiser._model.diffusion_model
    second = copy.deepcopy(unet).float()
    asked = [parameter for parameter in unet.parameters() if not parameter.requires_grad]
    for parameter in asked:
        parameter.requires_grad_(True)
        parameter.grad = torch.zeros_like(parameter)  # our backward pass asks for none of them
    try:
        yield sum(4 * p.numel() for p in second.parameters()) / 1e6 + sum(p.nbytes for p in asked) / 1e6
    finally:
        for parameter in asked:
            parameter.requires_grad_(False)
            parameter.grad = None


class TimedText:
    """A text encoder, and the seconds that it took: the part of a run that is none when the text is kept on disk."""

    def __init__(self, encoder: Any) -> None:
        self._encoder, self.seconds = encoder, 0.0

    def __call__(self, prompts: Any) -> Any:
        """The encoder's answers for prompts, each given by its tokens."""
        started = time.monotonic()
        try:
            return self._encoder(prompts)
        finally:
            self.seconds += time.monotonic() - started


def timed(denoiser: Any, name: str, target: str, settings: dict[str, Any]) -> tuple[Any, Row]:
    """The edit that one method makes of one target, and what it cost, scaled up to all of its steps."""
    from concept_erasure.erasure_core.concepts import parse_request
    from concept_erasure.erasure_core.method import methods
    from concept_erasure.erasure_core.report import Report

    kind, first, report = methods()[name], [], Report()
    method = kind(**settings)
    report.on_preview = lambda step: first.append((report.seconds(), denoiser.evaluations)) if step == 1 else None
    denoiser.text_encoder = text = TimedText(denoiser.text_encoder)
    with holding(denoiser, name):
        erased = method.erase(denoiser, parse_request(target), report)
    seconds = report.seconds()
    # what comes before the first step is spent once, however many follow
    whole = kind.steps if name == PUBLISHED else method.steps
    scale = (whole - 1) / max(1, method.steps - 1)
    (before, evaluations) = first[0]
    return erased, {
        "updates": method.steps,
        "of": whole,
        "UNet_evaluations": round(evaluations + scale * (denoiser.evaluations - evaluations)),
        "seconds": round(before + scale * (seconds - before), 1),
        "text_seconds": round(text.seconds, 1),
    }


def one_run(testbed: Playground, name: str, target: str, seed: int, n: int, settings: dict[str, Any]) -> Row:
    """Erase one target by one method, from nothing encoded, and judge."""
    from concept_erasure.nodes import host

    with host.open_session(testbed.model, testbed.clip, 64, 64) as denoiser:
        erased, costs = timed(denoiser, name, target, settings | {"seed": seed})
    scores = measure.evaluate(
        testbed, host.patched(testbed.model, erased, 1.0), [target], n=n, n_small=n // 2, seed=10 * seed
    )
    return {"method": name, "target": target, "seed": seed} | costs | scores[target].row()


def holding(denoiser: Any, name: str) -> AbstractContextManager[float]:
    """A context that holds the tensors of the method's published code during a run; its value is their megabytes."""
    return as_published(denoiser) if name == PUBLISHED else nullcontext(0.0)


def memory_of(testbed: Playground, name: str, target: str, settings: dict[str, Any]) -> Row:
    """The most memory that the tensors of a run take at a time, over the loaded model, in a run of a few steps."""
    from concept_erasure.erasure_core.concepts import parse_request
    from concept_erasure.erasure_core.method import methods
    from concept_erasure.erasure_core.report import Report
    from concept_erasure.nodes import host

    method = methods()[name](**settings | {"steps": MEMORY_STEPS})
    session = host.open_session(testbed.model, testbed.clip, 64, 64)
    with session as denoiser, LiveMemory() as live, holding(denoiser, name) as held:
        method.erase(denoiser, parse_request(target), Report())
    return {"method": name, "peak_MB": round(live.peak / 1e6, 1), "held_MB": round(held, 1)}


def mean_ratio(rows: Sequence[Row], cost: Callable[[Row], float]) -> float | None:
    """ap_reference over ap of one cost, in the mean over the cases that both have run; None if there is none."""
    ours, published = (
        {(row["target"], row["seed"]): cost(row) for row in rows if row["method"] == name} for name in METHODS
    )
    ratios = [published[case] / ours[case] for case in ours if case in published]
    return round(statistics.mean(ratios), 2) if ratios else None


def summary(rows: Sequence[Row], memory: Sequence[Row] = ()) -> dict[str, Any]:
    """Qualities in the mean over the whole runs, and ratios ap_reference over ap in the mean over the cases."""
    by = {name: [row for row in rows if row["method"] == name] for name in METHODS}
    result: dict[str, Any] = {}
    for name, mine in by.items():
        whole = [row for row in mine if row["updates"] == row["of"]]  # an unfinished run says nothing of quality
        result |= {f"{key}_{name}": round(statistics.mean(row[key] for row in whole), 2) for key in QUALITIES if whole}
        result |= {f"whole_runs_{name}": len(whole)} if mine else {}
    if all(by.values()):
        result |= {ratio: mean_ratio(rows, itemgetter(key)) for key, ratio in COSTS.items()}
        result["wall_ratio_with_text_kept"] = mean_ratio(rows, lambda row: row["seconds"] - row["text_seconds"])
        result["reference_is_whole"] = all(row["updates"] == row["of"] for row in by[PUBLISHED])
    peaks = {row["method"]: row for row in memory}
    if len(peaks) == 2:
        ours, published = (peaks[name] for name in METHODS)
        result["peak_memory_ratio"] = round(published["peak_MB"] / ours["peak_MB"], 2)
        # without what the published code only holds: the loop's own share
        own = published["peak_MB"] - published["held_MB"]
        result["peak_memory_ratio_of_the_loop"] = round(own / ours["peak_MB"], 2)
    return result


def table(rows: Sequence[Row]) -> str:
    """One line a run."""
    head = ("method", "target", "seed", "updates", *COSTS, "text_seconds", "esr1", "psr1", "look_alike", "drift")
    return markdown_table(head, [[row[key] for key in head] for row in rows])


def ratio_table(result: dict[str, Any]) -> str:
    """The ratios, and both qualities."""
    named = {
        "UNet evaluations": "unet_evaluations_ratio",
        "wall time": "wall_ratio",
        "wall time, text read from disk": "wall_ratio_with_text_kept",
        "peak memory over the model": "peak_memory_ratio",
        "the same, without what the published code only holds": "peak_memory_ratio_of_the_loop",
    }
    cells = [[name, result.get(key)] for name, key in named.items()]
    for score in ("ESR-1", "PSR-1"):
        key = score.lower().replace("-", "")
        both = [result.get(f"{key}_{name}") for name in reversed(METHODS)]
        pair = ", ".join("-" if value is None else str(value) for value in both)
        cells.append([f"{score}: ap_reference, ap (whole runs)", pair])
    return markdown_table(("ap_reference over ap", "mean"), cells)


def best_key(key: tuple, finished: Container[str]) -> tuple:
    """That of the same run with all of its optimiser steps, if it is finished."""
    whole = (*key[:-1], {name: value for name, value in key[-1].items() if name != "steps"})
    return whole if json.dumps(whole) in finished else key


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=100, help="pictures for target and retained values")
    parser.add_argument("--targets", nargs="*", default=list(TARGETS))
    parser.add_argument("--seeds", nargs="*", type=int, default=list(SEEDS))
    parser.add_argument("--updates", type=int, help="stop ap_reference after so many")
    parser.add_argument("--reference-learning-rate", type=float, help="if not the published one")
    runs.add_arguments(parser)
    runs.add_processes(parser, 1)
    arguments = parser.parse_args()
    os.environ.setdefault(*NO_CACHE)
    started, testbed = time.time(), functools.cache(load_playground)
    changed = {"steps": arguments.updates, "learning_rate": arguments.reference_learning_rate}
    settings = {OURS: {}, PUBLISHED: {name: value for name, value in changed.items() if value is not None}}
    keys: list[tuple] = [(MEMORY, name, arguments.targets[0], settings[name]) for name in METHODS]
    # in this order two processes share the default cases so that both methods of a case run on the same core
    cases = [(target, seed) for target in arguments.targets for seed in arguments.seeds]
    keys += [(name, *case, arguments.n, settings[name]) for name in METHODS for case in cases]
    keys = [best_key(key, runs.finished(arguments.rows)) for key in keys]

    def run(what: str, *key: Any) -> Row:
        return memory_of(testbed(), *key) if what == MEMORY else one_run(testbed(), what, *key)

    everything = runs.shown(keys, arguments, run, runs.divided("benchmarks.speed", keys, arguments))
    memory = [row for row in everything if row["key"][0] == MEMORY]
    rows = [row for row in everything if row["key"][0] != MEMORY]
    result = summary(rows, memory)
    print(f"{table(rows)}\n\n{ratio_table(result)}", flush=True)
    result |= runs.circumstances(started) | {"rows": rows, "memory": memory}
    if arguments.write:
        runs.write_tables("performance", BY, result, ratios=ratio_table(result), speed=table(rows))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
