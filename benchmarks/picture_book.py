"""`make bench-picture-book`: every method on the picture book, and AP's searches beside one another.

A row is one erasure with one seed, judged on 200 pictures or more, drawn by `sampling.QUICK`; with `--rows FILE` a stopped
series goes on where it was.
Prints Markdown tables and, as its last line, one JSON object with every figure. `--write` stores them in `docs/`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from devtools.method_docs import NOT_COMPARED
from devtools.pages import markdown_table
from playground.sampling import QUICK
from testbed.idle_layers import skip_idle_layers
from testbed.measure_book import (
    GROUPS,
    LOOK_ALIKE,
    MEMBER,
    SYNONYM,
    TARGET,
    UNRELATED,
    Case,
    judged_group,
    prompts_of,
)
from testbed.playground import Playground, erase_once, load_picture_book

from .book_cases import CASES
from .instruments.runs import Row, add_arguments, add_processes, circumstances, divided, mean_of, shown, write_tables
from .methods import BASE, CONTROL, control

SEARCHES = {f"ap, {search}": ("ap", {"search": search}) for search in ("random", "none", "gumbel")}
COUNTS = {
    "thing": {TARGET: 60, SYNONYM: 25, LOOK_ALIKE: 55, UNRELATED: 60},
    "style": {TARGET: 70, LOOK_ALIKE: 60, UNRELATED: 70},
    "category": {TARGET: 70, MEMBER: 60, UNRELATED: 70},
}
"""Pictures of each group in a row, by the kind of the case: 200 in all."""
WITH_SEEDS = ("ap", *SEARCHES, "esd", "uce", "rece")
SEEDS = (0, 1, 2)
BY = "make bench-picture-book ARGS=--write"
RETAINED = (LOOK_ALIKE, UNRELATED)


def erased_model(testbed: Playground, variant: str, case: Case, seed: int, encoded: dict) -> tuple[Any, dict[str, Any]]:
    """The model with the case erased, and what that cost."""
    if variant == BASE:
        return testbed.model, {}
    name, settings = SEARCHES.get(variant, ("ap" if variant == CONTROL else variant, {}))
    model, seconds, size = testbed.model, 0.0, 0
    for targets in [[target] for target in case.targets] if case.one_by_one else [case.targets]:
        edited, report, erased = erase_once(testbed, name, targets, seed, encoded, model, **settings)
        if variant == CONTROL:
            edited = control(model, erased, seed)
        model, seconds, size = edited, seconds + report.costs["seconds"], size + erased.size()
    return model, {"seconds": round(seconds, 1), "file_kB": round(size / 1000)}


def one_run(testbed: Playground, encoded: dict, things: Sequence[Any], variant: str, name: str, seed: int) -> Row:
    """Erase and judge; base and control are rows like any other."""
    case = next(case for case in CASES if case.name == name)
    model, costs = erased_model(testbed, variant, case, seed, encoded)
    groups = prompts_of(case, things, COUNTS[case.kind], seed)
    found = {
        group: judged_group(testbed, model, asked, 1000 * seed + GROUPS.index(group)) for group, asked in groups.items()
    }
    return {"variant": variant, "case": name, "kind": case.kind, "seed": seed, "costs": costs, "groups": found}


def scores(row: Row) -> dict[str, float | None]:
    """A row's figures in per cent, None for a group that it has not.

    For things: esr: the target's prompts whose picture does not show it; look_alike, unrelated: theirs that show what they
    name; style: of the target's and the retained prompts with a style, those drawn in it. For a style: esr: pictures not
    drawn in it; look_alike: the other styles drawn as asked; unrelated: things named without a style; style: the thing, on
    the style's own prompts.
    """
    groups, of_style = row["groups"], row["kind"] == "style"
    right = "style" if of_style else "top1"
    return {
        "esr1": _gone(_share(groups, TARGET, right)),
        "esr5": None if of_style else _gone(_share(groups, TARGET, "top5")),
        "synonym": _gone(_share(groups, SYNONYM, "top1")),
        "member": _gone(_share(groups, MEMBER, "top1")),
        "look_alike": _share(groups, LOOK_ALIKE, right),
        "look_alike5": None if of_style else _share(groups, LOOK_ALIKE, "top5"),
        "psr1": _share(groups, UNRELATED, "top1"),
        "psr5": _share(groups, UNRELATED, "top5"),
        "other_factor": _share(groups, TARGET, "top1") if of_style else _style_kept(groups),
        "drift": statistics.mean(groups[group]["drift"] for group in RETAINED if group in groups),
    }


def harmonic(row: Row) -> float:
    """The harmonic mean of a row's ESR-1, PSR-1 and look-alike PSR, of those that it has."""
    found = scores(row)
    return statistics.harmonic_mean(
        [found[key] or 0 for key in ("esr1", "psr1", "look_alike") if found[key] is not None]
    )


def _share(groups: dict[str, Any], group: str, what: str) -> float | None:
    """Per cent of a group's pictures; None if the row has not that group."""
    if group not in groups:
        return None
    return 100 * groups[group][what] / max(1, groups[group]["styled" if what == "style" else "n"])


def _gone(share: float | None) -> float | None:
    return None if share is None else 100 - share


def _style_kept(groups: dict[str, Any]) -> float:
    asked = [groups[group] for group in (TARGET, *RETAINED) if group in groups]
    return 100 * sum(group["style"] for group in asked) / max(1, sum(group["styled"] for group in asked))


COLUMNS = {
    "esr1": "ESR-1",
    "esr5": "ESR-5",
    "synonym": "synonym ESR-1",
    "member": "members gone",
    "psr1": "PSR-1",
    "psr5": "PSR-5",
    "look_alike": "look-alikes",
    "other_factor": "style or thing kept",
    "drift": "drift",
}


def table(rows: Sequence[Row]) -> str:
    """One line a variant: means over its rows."""
    cells = []
    for variant in dict.fromkeys(row["variant"] for row in rows):
        mine = [scores(row) for row in rows if row["variant"] == variant]
        seconds = [row["costs"].get("seconds") for row in rows if row["variant"] == variant]
        means = [mean_of([row[key] for row in mine]) for key in COLUMNS]
        together = mean_of([harmonic(row) for row in rows if row["variant"] == variant])
        cells.append([variant, *means, together, mean_of(seconds), len(mine)])
    return markdown_table(("method", *COLUMNS.values(), "harmonic mean", "s", "rows"), cells)


def by_case(rows: Sequence[Row]) -> str:
    """ESR-1 / PSR-1 / look-alikes of each case, a line a variant."""
    names = [case.name for case in CASES if any(row["case"] == case.name for row in rows)]
    cells = []
    for variant in dict.fromkeys(row["variant"] for row in rows):
        line = []
        for name in names:
            mine = [scores(row) for row in rows if (row["variant"], row["case"]) == (variant, name)]
            line.append(
                " / ".join(str(mean_of([row[key] for row in mine])) for key in ("esr1", "psr1", "look_alike"))
                if mine
                else None
            )
        cells.append([variant, *line])
    return markdown_table(("method", *names), cells)


def compared(rows: Sequence[Row], first: str = "ap") -> str:
    """The harmonic mean of `first` less that of each other variant, over the cases and seeds that both have, with the paired
    95 % interval."""
    by_key = {(row["variant"], row["case"], row["seed"]): harmonic(row) for row in rows}
    cells = []
    for other in dict.fromkeys(row["variant"] for row in rows if row["variant"] != first):
        pairs = [
            (by_key[(first, *key)], value)
            for (variant, *key), value in by_key.items()
            if variant == other and (first, *key) in by_key
        ]
        gains = [mine - theirs for mine, theirs in pairs]
        if len(gains) > 1:
            half = 1.96 * statistics.stdev(gains) / len(gains) ** 0.5
            cells.append([other, f"{statistics.mean(gains):+.1f} ± {half:.1f}", len(gains)])
    return markdown_table((f"{first} less", "harmonic mean", "pairs"), cells)


def main() -> None:
    """Measure, print, and store if asked to."""
    from devtools.hosting.pack import load_pack

    load_pack()
    from concept_erasure.erasure_core.method import methods

    from playground.picture_book.weights import stored_things

    variants = [BASE, CONTROL, *(name for name in methods() if name not in NOT_COMPARED), *SEARCHES]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="*", default=variants, choices=variants)
    parser.add_argument(
        "--cases", nargs="*", default=[case.name for case in CASES], choices=[case.name for case in CASES]
    )
    parser.add_argument(
        "--seeds", nargs="*", type=int, default=list(SEEDS), help="of AP, its searches, ESD and the closed forms"
    )
    add_arguments(parser)
    add_processes(parser, 1)
    arguments = parser.parse_args()
    started, encoded, things = time.time(), {}, stored_things()
    keys = [
        (variant, case, seed)
        for seed in arguments.seeds
        for case in arguments.cases
        for variant in arguments.variants
        if seed == arguments.seeds[0] or variant in WITH_SEEDS
    ]

    @cache
    def testbed() -> Playground:
        book = replace(load_picture_book(), drawn_by=QUICK)
        skip_idle_layers(book.clip)
        return book

    def run(variant: str, case: str, seed: int) -> Row:
        return one_run(testbed(), encoded, things, variant, case, seed)

    divided_rows = divided("benchmarks.picture_book", keys, arguments)
    # what has the same base pictures stays in one process
    rows = shown(keys, arguments, run, divided_rows, together=lambda key: key[1:])
    rows.sort(key=lambda row: (variants.index(row["variant"]), row["seed"]))
    tables = {"methods": table(rows), "cases": by_case(rows), "compared": compared(rows)}
    print("\n\n".join(tables.values()), flush=True)
    result = {"rows": rows} | circumstances(started)
    if arguments.write:
        write_tables("picture_book", BY, result, **tables)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
