"""`python -m benchmarks.sampling_cost`: how much longer ComfyUI samples with an edit applied, on the playground.

Every kind of edit is made with a few steps, for its cost does not depend on its quality, and drawn with for a prompt that
says its target and for one that does not: some edits open only for the target. Base and edit take turns in the order ABBA,
many times over, in one process; a figure is the median of the ratios edit over base of processor time. A row that compares
the base with a clone of itself is the noise: no edit is told from none within its spread. Prints a Markdown table and, as
its last line, one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from devtools.pages import markdown_table
from playground import sampling
from testbed.playground import Playground, load_playground

from .instruments import runs
from .instruments.runs import Row

TARGET, OTHER = "circle", "square"
PROMPTS = {"says the target": TARGET, "does not": OTHER}
BASE = "base against base"
EDITS = {
    "esd": ("esd", {}),
    "ap": ("ap", {"search": "none"}),
    "modular_lora": ("modular_lora", {}),
    "uce": ("uce", {}),
    "spm without gate": ("spm", {"gate": False}),
    "spm": ("spm", {}),
    "dumo": ("dumo", {}),
    "saeuron": ("saeuron", {"selectivity": 1.0, "steps": 20}),
    "kpop, its key": ("kpop", {}),
}
QUICK = {
    "steps": 2,
    "scale_steps": 1,
    "trajectories": 2,
    "sampling_steps": 4,
    "candidates": 4,
    "sentences": 2,
    "kept_sentences": 0,
    "vocabulary": "shapes_and_colours",
}
"""Settings of every method that has them, if `EDITS` says nothing else: none of them decides what sampling costs."""


def models(testbed: Playground, wanted: Sequence[str]) -> dict[str, tuple[str, Any]]:
    """By name: the kind of the edit, and a MODEL with it."""
    from concept_erasure.erasure_core.concepts import parse_request
    from concept_erasure.erasure_core.method import methods, settings_of
    from concept_erasure.erasure_core.report import Report
    from concept_erasure.nodes import host

    found, encoded = {BASE: ("none", testbed.model.clone())}, {}
    for name in wanted:
        method, chosen = EDITS[name]
        known = {field.name for field in settings_of(methods()[method])}
        settings = {key: value for key, value in (QUICK | chosen).items() if key in known}
        with host.open_session(testbed.model, testbed.clip, 64, 64, encoded) as denoiser:
            erased = methods()[method](**settings).erase(denoiser, parse_request(TARGET), Report())
        edited, kind = host.patched(testbed.model, erased, 1.0), erased.provenance.kind
        if erased.key is not None:
            edited, kind = host.patched(edited, erased.key, 1.0), f"{kind} + {erased.key.provenance.kind}"
        found[name] = kind, edited
    return found


def abba(base: Callable[[], float], edited: Callable[[], float]) -> tuple[float, float]:
    """Edit over base, and the base's seconds, from four timed runs in the order base, edit, edit, base: a machine that slows
    down steadily slows both alike."""
    first, second, third, fourth = (run() for run in (base, edited, edited, base))
    return (second + third) / (first + fourth), (first + fourth) / 2


def sampling_seconds(testbed: Playground, model: Any, prompt: str) -> float:
    """Processor time of one picture. The model is loaded before: putting an edit into the weights is not sampling."""
    from concept_erasure.nodes import host

    host.use(model)
    given = testbed.conditioning([prompt]), testbed.conditioning([""]), testbed.noise(1, 0)
    started = time.process_time()
    sampling.sample(model, *given, 0)
    return time.process_time() - started


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else 3 * [*values]
    return round(low, 3), round(middle, 3), round(high, 3)


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """The noise, as the farthest that a quartile of base against base lies from 1; and for each edit its ratio for each
    prompt, and whether it adds time: whether even its lower quartile lies above 1 by more than the noise."""
    plain = [row for row in rows if row["edit"] == BASE]
    noise = max((abs(row[name] - 1) for row in plain for name in ("low", "high")), default=None)
    result: dict[str, Any] = {"noise": None if noise is None else round(noise, 3)}
    for row in rows:
        name = f"{row['edit']}, {row['prompt']}"
        result[name] = {"ratio": row["ratio"]}
        if noise is not None:
            result[name]["adds_time"] = row["low"] - 1 > noise
    return result


def table(rows: Sequence[Row]) -> str:
    """One line an edit and prompt."""
    head = ("edit", "kind", "prompt", "ratio", "low", "high", "base_seconds", "repeats")
    return markdown_table(head, [[row[key] for key in head] for row in rows])


def measured(testbed: Playground, found: dict[str, tuple[str, Any]], repeats: int) -> list[Row]:
    """All edits in turn, `repeats` times over after once to warm up; weights draw alike for every prompt, so that only hooks
    are asked for both."""
    turns: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for repeat in range(repeats + 1):
        for name, (kind, model) in found.items():
            for what, shape in PROMPTS.items() if "hook" in kind else (("any", OTHER),):
                prompt = f"a solid red {shape}"
                base, edited = (partial(sampling_seconds, testbed, one, prompt) for one in (testbed.model, model))
                turns.setdefault((name, what), []).append(abba(base, edited))
        if repeat:
            print(f"# {repeat} of {repeats}: {json.dumps([row['ratio'] for row in rows_of(turns, found)])}", flush=True)
    return rows_of(turns, found)


def rows_of(turns: dict[tuple[str, str], list[tuple[float, float]]], found: dict[str, tuple[str, Any]]) -> list[Row]:
    """A row for each edit and prompt, from all its turns but the first."""
    rows = []
    for (name, what), pairs in turns.items():
        ratios, seconds = zip(*pairs[1:], strict=True)
        low, middle, high = quartiles(ratios)
        rows.append(
            {"edit": name, "kind": found[name][0], "prompt": what, "ratio": middle, "low": low, "high": high}
            | {"base_seconds": round(statistics.median(seconds), 3), "repeats": len(ratios)}
        )
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edits", nargs="*", default=list(EDITS), choices=EDITS)
    parser.add_argument("--repeats", type=int, default=15, help="turns of each edit")
    arguments = parser.parse_args()
    started, testbed = time.time(), load_playground()
    rows = measured(testbed, models(testbed, arguments.edits), arguments.repeats)
    print(table(rows), flush=True)
    print(json.dumps(summary(rows) | runs.circumstances(started) | {"rows": rows}))


if __name__ == "__main__":
    main()
