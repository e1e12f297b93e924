"""`python -m benchmarks.scaling`: what an erasure by AP costs with more concepts and with larger pictures, on the playground.

Every run encodes its text anew. What is spent once before the first optimiser step stands apart from the steps. Prints two
Markdown tables and, as its last line, one JSON object with the growth: the exponent b of cost ~ size^b between the two
largest sizes and over the whole range, where 1 is linear.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Sequence
from typing import Any

from devtools.pages import markdown_table
from testbed.playground import Playground, load_playground

from .instruments import runs
from .instruments.runs import Row
from .instruments.stopwatch import STEPS, Path, Stopwatch, counters, parts_of_ap
from .speed import NO_CACHE

CONCEPTS = (1, 2, 5, 10, 20)
SIZES = (64, 96, 128)
TARGETS = (
    "circle", "dog", "house", "star", "boat", "tree", "cup", "bird", "lamp", "square",
    "flower", "chair", "guitar", "fish", "bridge", "cake", "train", "cross", "hat", "moon",
)  # fmt: skip
"""Words of the vocabulary that AP searches; what an erasure costs does not ask whether the model can draw them."""


def _is(*wanted: str, steps: bool) -> Any:
    """Chooses the parts with one of these names innermost (any, if none is named), inside the steps or before them."""

    def chosen(path: Path) -> bool:
        return (STEPS in path) == steps and (not wanted or (path[-1] if path else "") in wanted)

    return chosen


COLUMNS = {
    "text": _is("text", steps=False),
    "sampling runs": _is("sampling runs", steps=False),
    "fixed": _is(steps=False),
    "search": _is("search", steps=True),
    "runs and teacher of the steps": _is("sampling runs", "teacher", steps=True),
    "text of the steps": _is("text", steps=True),
    "forward, backward, optimiser": _is("forward", "backward", "optimiser", steps=True),
    "steps": _is(steps=True),
    "in all": lambda _path: True,
}
"""`fixed` and `steps` are the sums over what is before the first step and over the steps, other parts included."""


def one_run(testbed: Playground, concepts: int, size: int, settings: dict[str, Any]) -> Row:
    """Erase the first `concepts` targets from pictures of size x size, from nothing encoded."""
    from concept_erasure.erasure_core.concepts import parse_request
    from concept_erasure.erasure_core.method import methods
    from concept_erasure.erasure_core.report import Report
    from concept_erasure.nodes import host

    method, request = methods()["ap"](**settings), parse_request("\n".join(TARGETS[:concepts]))
    with (
        host.open_session(testbed.model, testbed.clip, size, size) as denoiser,
        host.MemoryMeter(host.device()) as meter,
    ):
        watch = Stopwatch(counters(denoiser))
        with parts_of_ap(watch):
            method.erase(denoiser, request, Report())
        watch.stop()
    return {
        "concepts": concepts,
        "size": size,
        "steps": method.steps * concepts,
        "cpu": {name: round(watch.cost("cpu", chosen), 2) for name, chosen in COLUMNS.items()},
        "evaluations": {name: round(watch.cost("evaluations", chosen)) for name, chosen in COLUMNS.items()},
        "wall_seconds": round(watch.cost("wall"), 1),
        "peak_MB": round(meter.peak / 1e6),
    }


def exponent(small: tuple[float, float], large: tuple[float, float]) -> float:
    """b of cost ~ size^b through two (size, cost)."""
    return round(math.log(large[1] / small[1]) / math.log(large[0] / small[0]), 2)


def growth(points: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """How cost grows over (size, cost), the smallest first: exponents, and whether no size costs more than its share of the
    first one's cost."""
    (size, cost) = points[0]
    return {
        "exponent": exponent(points[0], points[-1]),
        "exponent_of_the_last_two": exponent(points[-2], points[-1]),
        "at_most_linear": all(other <= cost * larger / size for larger, other in points),
    }


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """The growth of processor seconds and evaluations, by concepts and by pixels."""
    concepts = [row for row in rows if row["key"][0] == "concepts"]
    sizes = [row for row in rows if row["key"][0] == "size"]
    found = {}
    for name, mine, size in (
        ("concepts", concepts, lambda row: row["concepts"]),
        ("pixels", sizes, lambda row: row["size"] ** 2),
    ):
        if len(mine) > 1:
            for what in ("cpu", "evaluations"):
                found[f"{what}_by_{name}"] = growth([(size(row), row[what]["in all"]) for row in mine])
            found[f"cpu_of_steps_by_{name}"] = growth([(size(row), row["cpu"]["steps"]) for row in mine])
    return found


def table(rows: Sequence[Row], kind: str) -> str:
    """One line a run: processor seconds, by part."""
    mine = [row for row in rows if row["key"][0] == kind]
    head = ("size" if kind == "size" else "concepts", *COLUMNS, "per concept", "UNet evaluations", "MB")
    cells = []
    for row in mine:
        each = round(row["cpu"]["in all"] / row["concepts"], 1)
        cells.append([row[kind], *row["cpu"].values(), each, row["evaluations"]["in all"], row["peak_MB"]])
    return markdown_table(head, cells)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concepts", nargs="*", type=int, default=list(CONCEPTS))
    parser.add_argument("--sizes", nargs="*", type=int, default=list(SIZES), help="width and height of the pictures")
    parser.add_argument("--settings", type=json.loads, default={}, help="of ap, as a JSON object; else its defaults")
    runs.add_arguments(parser)
    arguments = parser.parse_args()
    os.environ.setdefault(*NO_CACHE)
    started, testbed = time.time(), load_playground()
    settings = arguments.settings
    keys = [("concepts", n, settings) for n in arguments.concepts] + [("size", s, settings) for s in arguments.sizes]

    def run(kind: str, value: int, settings: dict[str, Any]) -> Row:
        concepts, size = (value, 64) if kind == "concepts" else (1, value)
        return one_run(testbed, concepts, size, settings)

    rows = runs.shown(keys, arguments, run)
    print("\n\n".join(table(rows, kind) for kind in ("concepts", "size")), flush=True)
    print(json.dumps(summary(rows) | runs.circumstances(started) | {"settings": settings, "rows": rows}))


if __name__ == "__main__":
    main()
