"""`make bench-methods`: every erasure method on the playground, at its defaults, in one table, but for those that take hours.

Prints a Markdown table and, as its last line, one JSON object with every figure. With `--rows FILE` a stopped series goes
on where it was, and `--processes 2` divides it between two. `--write` stores table, figures and
plot in `docs/`, and each method's own figures on its page.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from devtools import method_docs
from devtools.pages import markdown_table
from testbed import measure
from testbed.playground import Playground, erase_once, load_playground

from .instruments.runs import (
    DOCS,
    Row,
    add_arguments,
    add_processes,
    circumstances,
    divided,
    mean_of,
    shown,
    write_tables,
)
from .instruments.scatter_plot import Point, scatter

TARGETS = ("circle", "square", "red", "striped")
SEEDS = (0, 1)
BASE, CONTROL = "nothing (base)", "random edit (control)"
BY = "make bench-methods ARGS=--write"


def control(model: Any, erased: Any, seed: int) -> Any:
    """The control of an edit: `model` with a random edit that is as large in each layer."""
    from concept_erasure.erasure_core.red_team.attacks.relearn import random_change
    from concept_erasure.nodes import host

    return host.patched(model, random_change(erased, torch.Generator().manual_seed(seed)), 1.0)


def one_run(testbed: Playground, name: str, target: str, seed: int, n: int, encoded: dict) -> dict[str, Any]:
    """Erase and judge; the base and the control are rows like any other."""
    edited, costs = testbed.model, {}
    if name != BASE:
        edited, report, erased = erase_once(testbed, "ap" if name == CONTROL else name, [target], seed, encoded)
        if name == CONTROL:
            edited = control(testbed.model, erased, seed)
        costs = {
            "seconds": round(report.costs["seconds"], 1),
            "peak_MB": round(report.costs["peak_MB"]),
            "file_kB": round(erased.size() / 1000),
        }
    scores = measure.evaluate(testbed, edited, [target], n=n, n_small=n // 2, seed=10 * seed)[target]
    return {"method": name, "target": target, "seed": seed, "costs": costs} | scores.row()


def _cells(rows: Sequence[dict[str, Any]]) -> list[Any]:
    rest = [value for row in rows for value in row["rest"].values()]
    others = [value for row in rows for value in row["others"].values()]
    costs = [mean_of([row["costs"].get(key) for row in rows]) for key in ("seconds", "peak_MB", "file_kB")]
    scores = [mean_of([row[key] for row in rows]) for key in ("esr1", "psr1", "look_alike", "drift")]
    return [*scores, mean_of(rest), mean_of(others), mean_of([row["synonym_esr1"] for row in rows]), *costs]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Means of each method over its targets and seeds, then its ESR-1 / PSR-1 for each target."""
    targets = list(dict.fromkeys(row["target"] for row in rows))
    cells = []
    for method in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in rows if row["method"] == method]
        each = [[row for row in mine if row["target"] == target] for target in targets]
        pairs = [f"{mean_of([r['esr1'] for r in part])} / {mean_of([r['psr1'] for r in part])}" for part in each]
        cells.append([method, *_cells(mine), *pairs, len(mine)])
    head = ("method", "ESR-1", "PSR-1", "look-alikes", "drift", "rest of the prompt", "other factors", "synonym ESR-1")
    return markdown_table((*head, "s", "MB", "kB", *targets, "runs"), cells)


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """ESR-1 against PSR-1, a point a method."""
    points = []
    for method in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in rows if row["method"] == method]
        gone, still_there = (round(statistics.mean(row[key] for row in mine), 1) for key in ("esr1", "psr1"))
        points.append(Point(method, gone, still_there, method in (BASE, CONTROL)))
    title = "Playground, mean of targets and seeds"
    scatter(points, title, "ESR-1: the target is gone, %", "PSR-1: the others are still there, %").save(path)


def main() -> None:
    """Measure, print, and store if asked to."""
    from devtools.hosting.pack import load_pack

    load_pack()
    from concept_erasure.erasure_core.method import methods

    names = [BASE, CONTROL, *(name for name in methods() if name not in method_docs.NOT_COMPARED)]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="*", default=names, choices=names)
    parser.add_argument("--targets", nargs="*", default=list(TARGETS))
    parser.add_argument("--seeds", nargs="*", type=int, default=list(SEEDS))
    parser.add_argument("--n", type=int, default=60, help="target pictures, and as many of other values, a run")
    add_arguments(parser)
    add_processes(parser, 1)
    arguments = parser.parse_args()
    started = time.time()
    testbed, encoded = functools.cache(load_playground), {}

    def run(name: str, target: str, seed: int) -> Row:
        return one_run(testbed(), name, target, seed, arguments.n, encoded)

    keys = [(m, t, s) for s in arguments.seeds for t in arguments.targets for m in arguments.methods]
    rows = shown(keys, arguments, run, divided("benchmarks.methods", keys, arguments))
    rows.sort(key=lambda row: (names.index(row["method"]), row["target"], row["seed"]))
    print(table(rows), flush=True)
    result = {"rows": rows, "n": arguments.n} | circumstances(started)
    if arguments.write:
        write_tables("comparison", BY, result, methods=table(rows))
        plot(rows, DOCS / "comparison.png")
        method_docs.main([])
    print(json.dumps(result))


if __name__ == "__main__":
    main()
