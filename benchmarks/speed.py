"""`make bench-speed`: AP's fast schedule against the published loop on the playground, cost and quality side by side.

The published loop runs with the published settings, and holds what the published code holds: a second copy of the UNet, and
gradients of all its weights. Prints a Markdown table and, as its last line, one JSON object; every ratio is reference over
fast. `--updates N` stops the reference after N of its optimiser steps. Its cost is then scaled up to all of them, for its
loops are alike but for the noise level that each draws; its quality is that of an unfinished run, and the result says so.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from . import measure, runs
from .playground import Playground, load_playground
from .quality import markdown_table
from .runs import Row

TARGETS = ("circle", "star", "red")
SEEDS = (0, 1)
PUBLISHED = {
    "schedule": "reference",
    "steps": 1000,
    "learning_rate": 1e-5,
    "rank": 0,
    "layers": "cross_attention",
    "batch": 1,
    "negative_guidance": 1.0,
    "retain_weight": 1.0,
    "loss_weighting": "x0",
    "sampling_steps": 50,
    "guidance_scale": 3.0,
    "prefilter": "spread",
    "candidates": 100,
    "search_learning_rate": 0.01,
    "temperature": 2.0,
}
"""Of the published code's scripts for objects; each is a setting of `ap`."""
NO_CACHE = ("CONCEPT_ERASURE_TEXT_CACHE", "off")
COSTS = ("UNet_evaluations", "seconds", "peak_MB")


@contextmanager
def as_published(denoiser: Any) -> Iterator[float]:
    """Hold what the published code holds besides: a second copy of the UNet in float32, and a gradient of every weight.
    Gives their megabytes."""
    unet = denoiser._model.diffusion_model
    second = copy.deepcopy(unet).float()
    asked = [parameter for parameter in unet.parameters() if not parameter.requires_grad]
    for parameter in asked:
        parameter.requires_grad_(True)
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

    def __call__(self, tokens: Any) -> Any:
        """What the encoder says of a prompt, given by its tokens."""
        started = time.monotonic()
        try:
            return self._encoder(tokens)
        finally:
            self.seconds += time.monotonic() - started


def one_run(bed: Playground, schedule: str, target: str, seed: int, n: int, settings: dict[str, Any]) -> Row:
    """Erase one target by one schedule, from nothing encoded, and judge."""
    from concept_erasure.erasure_core.concepts import parse_request
    from concept_erasure.erasure_core.method import methods
    from concept_erasure.erasure_core.report import Report
    from concept_erasure.nodes import host
    from concept_erasure.nodes.memory import MemoryMeter

    method, first = methods()["ap"](seed=seed, **settings), []
    with host.opened(bed.model, bed.clip, 64, 64) as denoiser, MemoryMeter(host.device()) as meter:
        denoiser.text_encoder = text = TimedText(denoiser.text_encoder)
        report = Report()
        report.on_preview = lambda step: first.append((report.seconds(), denoiser.evaluations)) if step == 1 else None
        with as_published(denoiser) if schedule == "reference" else nullcontext(0.0) as held:
            erased = method.erase(denoiser, parse_request(target), report)
        seconds = report.seconds()
    # what comes before the first step is spent once, however many follow
    whole = PUBLISHED["steps"] if schedule == "reference" else method.steps
    scale = (whole - 1) / max(1, method.steps - 1)
    (before, evaluations) = first[0]
    scores = measure.evaluate(bed, host.patched(bed.model, erased, 1.0), [target], n=n, n_small=n // 2, seed=10 * seed)
    return {
        "schedule": schedule,
        "target": target,
        "seed": seed,
        "updates": method.steps,
        "of": whole,
        "UNet_evaluations": round(evaluations + scale * (denoiser.evaluations - evaluations)),
        "seconds": round(before + scale * (seconds - before), 1),
        "text_seconds": round(text.seconds, 1),
        "peak_MB": round(meter.peak / 1e6, 1),
        "held_MB": round(held, 1),
    } | scores[target].row()


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Means over the runs, and the ratios reference over fast."""
    by = {name: [row for row in rows if row["schedule"] == name] for name in ("fast", "reference")}
    keys = (*COSTS, "text_seconds", "held_MB", "esr1", "psr1")
    mean = {name: {key: statistics.mean(row[key] for row in mine) for key in keys} for name, mine in by.items() if mine}
    result: dict[str, Any] = {
        f"{key}_{name}": round(values[key], 2) for name, values in mean.items() for key in ("esr1", "psr1")
    }
    if len(mean) == 2:
        fast, slow = mean["fast"], mean["reference"]
        ratios = dict(zip(("unet_evaluations_ratio", "wall_ratio", "peak_memory_ratio"), COSTS, strict=True))
        result |= {name: round(slow[key] / fast[key], 2) for name, key in ratios.items()}
        computing = {name: values["seconds"] - values["text_seconds"] for name, values in mean.items()}
        result["wall_ratio_with_text_kept"] = round(computing["reference"] / computing["fast"], 2)
        # without what the published code only holds: the schedule's own share
        result["peak_memory_ratio_of_the_schedule"] = round((slow["peak_MB"] - slow["held_MB"]) / fast["peak_MB"], 2)
        result["reference_is_whole"] = all(row["updates"] == row["of"] for row in by["reference"])
    return result


def table(rows: Sequence[Row]) -> str:
    """One line a run."""
    head = (
        "schedule",
        "target",
        "seed",
        "updates",
        *COSTS,
        "text_seconds",
        "held_MB",
        "esr1",
        "psr1",
        "look_alike",
        "drift",
    )
    return markdown_table(head, [[row[key] for key in head] for row in rows])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=100, help="pictures for target and retained values")
    parser.add_argument("--targets", nargs="*", default=list(TARGETS))
    parser.add_argument("--seeds", nargs="*", type=int, default=list(SEEDS))
    parser.add_argument("--updates", type=int, default=PUBLISHED["steps"], help="stop the reference after so many")
    parser.add_argument("--reference-learning-rate", type=float, default=PUBLISHED["learning_rate"])
    runs.add_arguments(parser)
    arguments = parser.parse_args()
    os.environ.setdefault(*NO_CACHE)
    started, bed = time.time(), load_playground()
    reference = PUBLISHED | {"steps": arguments.updates, "learning_rate": arguments.reference_learning_rate}
    keys = [
        (schedule, target, seed, arguments.n, reference if schedule == "reference" else {})
        for target in arguments.targets
        for seed in arguments.seeds
        for schedule in ("fast", "reference")
    ]
    rows = []
    for row in runs.each(keys, arguments, lambda *key: one_run(bed, *key)):
        rows.append(row)
        print(f"# {json.dumps(row)}", flush=True)
    print(table(rows), flush=True)
    print(json.dumps(summary(rows) | runs.circumstances(started) | {"rows": rows}))


if __name__ == "__main__":
    main()
