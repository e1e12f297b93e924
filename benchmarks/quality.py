"""`make bench-quality`: what AP erases and retains on the playground, compared with ESD, other searches and the base.

Prints Markdown tables and, as its last line, one JSON object with every figure. `--write` also stores them in `docs/`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from typing import Any

from devtools.pages import markdown_table
from testbed import measure
from testbed.playground import Playground, erase_once, load_playground

from .instruments import runs
from .instruments.runs import Row

TARGETS = (("circle",), ("square",), ("star",), ("red",), ("circle", "triangle"))
# Every variant retains a single shape; concepts that share look-alikes, and a colour, are harder.
COMPARED = (("circle", "square", "star"), ("red",))
SEEDS = (0, 1, 2)
VARIANTS = {
    "ap, scan": ("ap", {"search": "scan"}),
    "ap, gumbel": ("ap", {"search": "gumbel"}),
    "ap, random": ("ap", {"search": "random"}),
    "ap, none": ("ap", {"search": "none"}),
    "esd": ("esd", {}),
}
MANY = {"vocabulary": "model_words", "candidates": 500}
# among a hundred candidates chance finds the look-alikes too; with these only the harder concept is compared
FROM_MANY = {f"ap, {search}, 500 words": ("ap", {"search": search, **MANY}) for search in ("scan", "random")}
BY = "make bench-quality ARGS=--write"
COLUMNS = {
    "ESR-1": "esr1",
    "PSR-1": "psr1",
    "look-alikes": "look_alike",
    "synonym ESR-1": "synonym_esr1",
    "drift": "drift",
    "worst drift": "worst_drift",
}
"""Of the comparison: its heads, and the scores below them."""
GROUPED = {"rest of the prompt": "rest", "other factors": "others"}
"""The same for scores that are many, one a factor."""


def base_accuracy(testbed: Playground, n: int) -> dict[str, Any]:
    """Per cent of the base model's pictures that the judge finds right, by factor."""
    asked = measure.prompts(n, 77)
    seen = testbed.judged(testbed.draw(testbed.model, [prompt.text for prompt in asked], 4242))
    shares = {
        factor: round(100 * sum(s == getattr(p, factor) for s, p in zip(seen[factor], asked, strict=True)) / n, 2)
        for factor in measure.VALUES
    }
    return shares | {"n": n}


def drawn_by_base(testbed: Playground, n: int, *targets: str) -> Row:
    """The base model's scores on the prompts of `main_run`."""
    scores = measure.evaluate(testbed, testbed.model, targets, n=n, n_small=n // 2)
    return {"scores": {target: scores[target].row() for target in targets}}


def main_run(testbed: Playground, n: int, *targets: str, **settings: Any) -> Row:
    """AP, at its defaults but for the settings, on the targets in one run."""
    edited, report, erased = erase_once(testbed, "ap", targets, 0, encoded={}, **settings)
    scores = measure.evaluate(testbed, edited, targets, n=n, n_small=n // 2)
    return {
        "scores": {target: scores[target].row() for target in targets},
        "seconds": round(report.costs["seconds"], 1),
        "peak_MB": round(report.costs["peak_MB"]),
        "file_kB": round(erased.size() / 1000),
    }


def compared_run(testbed: Playground, n: int, encoded: dict, variant: str, seed: int, *targets: str) -> Row:
    """One variant on one set of targets with one seed."""
    name, settings = (VARIANTS | FROM_MANY)[variant]
    edited, report, _ = erase_once(testbed, name, targets, seed, encoded, **settings)
    scores = measure.evaluate(testbed, edited, targets, n=n, n_small=n // 2, seed=10 * seed)
    return {
        "variant": variant,
        "targets": list(targets),
        "seed": seed,
        "seconds": round(report.costs["seconds"], 1),
        "preserved": dict(sorted(report.adversarial.items(), key=lambda item: -item[1])[:8]),
        "scores": [score.row() for score in scores.values()],
    }


def main_table(rows: Sequence[Row], base: Sequence[Row]) -> str:
    """Base and AP one under the other."""
    cells = []
    for row, before in zip(rows, base, strict=True):
        for target in row["scores"]:
            for what, part in (("nothing (base)", before), (" + ".join(row["scores"]), row)):
                scores = part["scores"][target]
                rest = ", ".join(f"{name} {value}" for name, value in scores["rest"].items())
                counts = ", ".join(f"{name} {count}" for name, count in scores["n"].items())
                measured = [scores[key] for key in ("esr1", "psr1", "look_alike")]
                measured.append(scores["drift"] if part is row else 0.0)
                costs = [part.get(key) for key in ("seconds", "peak_MB")]
                cells.append([what, target, *measured, rest, scores["synonym_esr1"], *costs, counts])
    head = ("erased", "asked for", "ESR-1", "PSR-1", "look-alikes", "drift", "rest of the prompt", "synonym ESR-1", "s")
    return markdown_table((*head, "MB", "n"), cells)


def spread(values: Sequence[float]) -> str | None:
    """Mean ± standard deviation; None for no values."""
    if not values:
        return None
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values) if len(values) > 1 else 0:.1f}"


def compared_table(rows: Sequence[Row]) -> str:
    """One line a variant and set of targets: means and spread over the seeds, each run the mean of its targets."""
    cells = []
    for targets, variant in dict.fromkeys((tuple(row["targets"]), row["variant"]) for row in rows):
        mine = [row for row in rows if row["variant"] == variant and tuple(row["targets"]) == targets]
        seconds = spread([row["seconds"] for row in mine])
        cells.append([" + ".join(targets), variant, *_spreads(mine), seconds, len(mine)])
    return markdown_table(("erased", "variant", *COLUMNS, *GROUPED, "s", "runs"), cells)


def _spreads(rows: Sequence[Row]) -> list[str | None]:
    """The cells of `COLUMNS` and `GROUPED` for the runs of one variant on one set of targets."""
    cells = []
    for key in COLUMNS.values():
        each_run = [[scores[key] for scores in row["scores"] if scores[key] is not None] for row in rows]
        cells.append(spread([statistics.mean(values) for values in each_run if values]))
    for key in GROUPED.values():
        each_run = [[value for scores in row["scores"] for value in scores[key].values()] for row in rows]
        cells.append(spread([statistics.mean(values) for values in each_run]))
    return cells


def main() -> None:
    """Measure, print, and store if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=200, help="pictures for target and retained values in the main table")
    parser.add_argument("--compare-n", type=int, default=40, help="the same in the comparison")
    variants = [*VARIANTS, *FROM_MANY]
    parser.add_argument("--variants", nargs="*", default=variants, choices=variants)
    parser.add_argument("--skip-main", action="store_true", help="only the comparison")
    parser.add_argument("--skip-comparison", action="store_true", help="only the main table")
    parser.add_argument("--write", action="store_true", help="store the tables in docs/")
    runs.add_arguments(parser)
    arguments = parser.parse_args()
    started, encoded, testbed = time.time(), {}, load_playground()

    main_keys = [("base",), *((kind, *targets) for targets in TARGETS for kind in ("main", "base of main"))]
    main_keys = [] if arguments.skip_main else main_keys
    compared = [
        ("compare", variant, seed, *targets)
        for seed in SEEDS
        for targets in COMPARED
        for variant in arguments.variants
        if variant in VARIANTS or targets == COMPARED[-1]
    ]

    def run(kind: str, *what: Any) -> Row:
        if kind == "base":
            return base_accuracy(testbed, 600)
        if kind == "main":
            return main_run(testbed, arguments.n, *what)
        if kind == "base of main":
            return drawn_by_base(testbed, arguments.n, *what)
        return compared_run(testbed, arguments.compare_n, encoded, *what)

    rows = runs.shown(main_keys + ([] if arguments.skip_comparison else compared), arguments, run)

    result: dict[str, Any] = runs.circumstances(started)
    for kind in ("base", "main", "base of main", "compare"):
        result[kind] = [row for row in rows if row["key"][0] == kind]
    for row in result["base"]:
        print(f"Base model, judged on its own pictures: {json.dumps(row)}\n")
    tables = {"main": main_table(result["main"], result["base of main"]), "compared": compared_table(result["compare"])}
    print("\n\n".join(tables.values()), flush=True)
    if arguments.write:
        runs.write_tables("quality", BY, result, **tables)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
