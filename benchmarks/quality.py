"""`make bench-quality`: what AP erases on the playground and what it spares, beside ESD, other searches and the base.

Prints Markdown tables and, as its last line, one JSON object with every figure. `--write` also stores them in `docs/`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from . import measure
from .playground import Playground, load_playground

TARGETS = ("circle", "square", "star", "red")
TWO_TARGETS = ("circle", "triangle")
COMPARED = ("circle", "square", "triangle")
SEEDS = (0, 1, 2)
VARIANTS = {
    "ap, scan": ("ap", {"search": "scan"}),
    "ap, gumbel": ("ap", {"search": "gumbel"}),
    "ap, random": ("ap", {"search": "random"}),
    "ap, none": ("ap", {"search": "none"}),
    "esd": ("esd", {}),
}
DOCS = Path(__file__).parent.parent / "docs"


def erase_once(bed: Playground, name: str, targets: Sequence[str], seed: int, encoded: dict, **settings: Any) -> tuple:
    """Erase from the base model; returns the patched clone, the report and the edit. `encoded` is shared by runs.

    The model is opened anew each time: drawing with a patched clone puts that clone's weights into the shared module.
    """
    from concept_erasure.erasure_core.concepts import parse_request
    from concept_erasure.erasure_core.method import methods
    from concept_erasure.erasure_core.report import Report
    from concept_erasure.nodes import host
    from concept_erasure.nodes.memory import MemoryMeter

    report, meter = Report(), MemoryMeter(host.device())
    method, request = methods()[name](seed=seed, **settings), parse_request("\n".join(targets))
    with host.opened(bed.model, bed.clip, 64, 64, encoded) as denoiser, meter:
        erased = method.erase(denoiser, request, report)
    report.costs["seconds"] = report.seconds()
    report.costs["peak_MB"] = meter.peak / 1e6
    return host.patched(bed.model, erased, 1.0), report, erased


def base_accuracy(bed: Playground, n: int) -> dict[str, Any]:
    """Share of the base model's pictures that the judge finds right, a factor."""
    asked = measure.prompts(n, 77)
    seen = bed.judged(bed.draw(bed.model, [prompt.text for prompt in asked], 4242))
    shares = {
        factor: round(100 * sum(s == getattr(p, factor) for s, p in zip(seen[factor], asked, strict=True)) / n, 2)
        for factor in measure.VALUES
    }
    return shares | {"n": n}


def main_rows(bed: Playground, n: int, small: int) -> Iterator[dict[str, Any]]:
    """AP at its defaults, each target alone and two in one run, beside the base model on the same prompts."""
    for targets in [(target,) for target in TARGETS] + [TWO_TARGETS]:
        base = measure.evaluate(bed, bed.model, targets, n=n, n_small=small)
        edited, report, erased = erase_once(bed, "ap", targets, 0, encoded={})
        after = measure.evaluate(bed, edited, targets, n=n, n_small=small)
        for target in targets:
            yield {
                "erased": list(targets),
                "target": target,
                "base": base[target].row(),
                "ap": after[target].row(),
                "seconds": round(report.costs["seconds"], 1),
                "peak_MB": round(report.costs["peak_MB"]),
                "file_kB": round(erased.size() / 1000),
            }


def compared_rows(bed: Playground, n: int, small: int, variants: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Every variant on every target and seed, at equal optimiser steps."""
    encoded: dict = {}
    for seed in SEEDS:
        for target in COMPARED:
            for variant in variants:
                name, settings = VARIANTS[variant]
                edited, report, _ = erase_once(bed, name, [target], seed, encoded, **settings)
                scores = measure.evaluate(bed, edited, [target], n=n, n_small=small, seed=10 * seed)[target]
                costs = {"seconds": round(report.costs["seconds"], 1)}
                yield {"variant": variant, "target": target, "seed": seed} | costs | scores.row()


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Rows as a Markdown table; None becomes a dash."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join("-" if v is None else str(v) for v in row) + " |" for row in rows])


def main_table(rows: Sequence[dict[str, Any]]) -> str:
    """Base and AP one under the other."""
    cells = []
    for row in rows:
        for which in ("base", "ap"):
            scores = row[which]
            rest = ", ".join(f"{name} {value}" for name, value in scores["rest"].items())
            cells.append([
                " + ".join(row["erased"]) if which == "ap" else "nothing (base)", row["target"], scores["esr1"],
                scores["psr1"], scores["look_alike"], rest, scores["synonym_esr1"],
                row["seconds"] if which == "ap" else None, row["peak_MB"] if which == "ap" else None,
                ", ".join(f"{name} {count}" for name, count in scores["n"].items()),
            ])  # fmt: skip
    head = (
        "erased",
        "asked for",
        "ESR-1",
        "PSR-1",
        "look-alikes",
        "rest of the prompt",
        "synonym ESR-1",
        "s",
        "MB",
        "n",
    )
    return markdown_table(head, cells)


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation."""
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values) if len(values) > 1 else 0:.1f}"


def compared_table(rows: Sequence[dict[str, Any]]) -> str:
    """One line a variant: means and spread over targets and seeds."""
    cells = []
    for variant in dict.fromkeys(row["variant"] for row in rows):
        mine = [row for row in rows if row["variant"] == variant]
        alike = [row["look_alike"] for row in mine if row["look_alike"] is not None]
        synonyms = [row["synonym_esr1"] for row in mine if row["synonym_esr1"] is not None]
        others = [value for row in mine for value in row["others"].values()]
        rest = [value for row in mine for value in row["rest"].values()]
        groups = ([row["esr1"] for row in mine], [row["psr1"] for row in mine], alike, synonyms, others, rest)
        cells.append(
            [variant, *(spread(group) for group in groups), spread([row["seconds"] for row in mine]), len(mine)]
        )
    head = ("variant", "ESR-1", "PSR-1", "look-alikes", "synonym ESR-1", "kept: other factors", "target: other factors")
    return markdown_table((*head, "s", "runs"), cells)


def main() -> None:
    """Measure, print, and store if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=216, help="pictures for target and retained values in the main table")
    parser.add_argument("--compare-n", type=int, default=72, help="the same in the comparison")
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--skip-main", action="store_true", help="only the comparison")
    parser.add_argument("--skip-comparison", action="store_true", help="only the main table")
    parser.add_argument("--write", action="store_true", help="store the tables in docs/quality.md")
    arguments = parser.parse_args()
    started = time.time()
    bed = load_playground()
    result: dict[str, Any] = {"threads": torch.get_num_threads()}
    parts = []
    if not arguments.skip_main:
        result["base_accuracy"] = base_accuracy(bed, 600)
        parts.append(f"Base model, judged on its own pictures: {result['base_accuracy']}")
        print(parts[-1], flush=True)
        result["main"] = []
        for row in main_rows(bed, arguments.n, arguments.n // 2):
            result["main"].append(row)
            print(f"# {json.dumps(row)}", flush=True)
        parts.append(main_table(result["main"]))
        print(parts[-1], flush=True)
    result["compared"] = []
    variants = [] if arguments.skip_comparison else arguments.variants
    for row in compared_rows(bed, arguments.compare_n, arguments.compare_n // 2, variants):
        result["compared"].append(row)
        print(
            f"# {row['variant']} {row['target']} seed {row['seed']}: ESR-1 {row['esr1']} PSR-1 {row['psr1']}",
            flush=True,
        )
    if result["compared"]:
        parts.append(compared_table(result["compared"]))
        print(parts[-1], flush=True)
    result["minutes"] = round((time.time() - started) / 60, 1)
    if arguments.write:
        DOCS.mkdir(exist_ok=True)
        (DOCS / "quality_tables.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
        (DOCS / "quality.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
