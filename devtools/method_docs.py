"""Keep the help pages' texts about methods equal to the code.

python -m devtools.method_docs            rewrite the text between the markers
python -m devtools.method_docs --check    write nothing; exit 1 if a page is stale

The registries get their imports (`devtools.registries`), Erase Concept's help page the list of methods, each method's own
page in docs/methods its settings and its figures of docs/comparison.json, and the help page of Red-Team Concept the list
of attacks with theirs. Every help page is also written for languages without one of their own.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import registries
from .hosting.comfyui import PACK
from .hosting.errors import ToolError
from .hosting.pack import load_pack
from .pages import filled, markdown_list, markdown_table

HELP = PACK / "web" / "docs"
PAGE = HELP / "ErasureEraseConcept" / "en.md"
ATTACKS_PAGE = HELP / "ErasureRedTeam" / "en.md"
FOLDER = PACK / "docs" / "methods"
COMPARISON = PACK / "docs" / "comparison.json"
NOT_COMPARED = ("ap_reference",)
"""Methods whose runs take hours, and which no comparison of all methods has; `benchmarks.speed` measures them."""
BASE = "nothing (base)"
ONLINE = "https://github.com/concept-erasure/ComfyUI-Concept-Erasure/blob/main/docs/methods"
BY = "python -m devtools.method_docs"


def overview(found: dict[str, type]) -> str:
    """One line a method: name, what it does (the first line of the class's docstring), source."""
    rows = []
    for name, method in found.items():
        idea = (inspect.getdoc(method) or "").split("\n")[0]
        rows.append((f"[`{name}`]({ONLINE}/{name}.md)", f"{method.title.split(': ', 1)[-1]}. {idea} ({method.paper})"))
    return markdown_list(rows)


def attacks_overview(found: dict[str, type]) -> str:
    """One line an attack, then the settings of each."""
    rows, parts = [], []
    for name, attack in found.items():
        idea = " ".join((inspect.getdoc(attack) or "").split("\n\n")[0].split())
        rows.append((f"`{name}`", f"{idea} ({attack.paper})"))
        parts.append(f"Settings of `{name}`:\n\n{settings_list(attack)}")
    return "\n\n".join([markdown_list(rows), *parts])


def settings_table(method: type) -> str:
    """Every setting of a method in Markdown."""
    load_pack()
    from concept_erasure.erasure_core.method import settings_of

    return markdown_table(("setting", "default", "range", "what it does"), list(map(_row, settings_of(method))))


def settings_list(attack: type) -> str:
    """Every setting of an attack in Markdown, for the narrow panel of the help page."""
    load_pack()
    from concept_erasure.erasure_core.method import settings_of

    rows = [_row(field) for field in settings_of(attack)]
    return markdown_list([(name, f"{what} Default {default}; {values}.") for name, default, values, what in rows])


def _row(field: dataclasses.Field) -> list[str]:
    help_text = field.metadata["help"] + (" *(advanced)*" if field.metadata["advanced"] else "")
    return [f"`{field.name}`", _value(field.default), _range(field), help_text]


def _value(value: Any) -> str:
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _range(field: dataclasses.Field) -> str:
    if field.metadata["choices"] is not None:
        return ", ".join(f"`{choice}`" for choice in field.metadata["choices"])
    if isinstance(field.default, bool):
        return "on or off"
    low, high = (_bound(field.metadata[key]) for key in ("minimum", "maximum"))
    return f"{low} to {high}"


def _bound(value: float | None) -> str:
    return "any" if value is None else f"{value:g}"


def compared(name: str) -> list[dict[str, Any]]:
    """The runs of a method in the comparison of all."""
    rows = json.loads(COMPARISON.read_text(encoding="utf-8"))["rows"]
    return [row for row in rows if row["method"] == name]


def measured_table(runs: Sequence[dict[str, Any]], base: Sequence[dict[str, Any]]) -> str:
    """A row a target; a figure a seed, in per cent. Before it, what the base model has."""
    runs = sorted(runs, key=lambda run: run["seed"])
    head = ("erased", "ESR-1", "PSR-1", "look-alikes", "rest of the prompt", "synonym ESR-1")
    lines = []
    for target in dict.fromkeys(run["target"] for run in runs):
        mine = [run for run in runs if run["target"] == target]
        rest = "; ".join(
            f"{factor} {_figures([run['rest'][factor] for run in mine])}" for factor in dict.fromkeys(mine[0]["rest"])
        )
        cells = [_figures([run[key] for run in mine]) for key in ("esr1", "psr1", "look_alike", "synonym_esr1")]
        lines.append([target, *cells[:3], rest, cells[3]])
    seeds = ", ".join(str(seed) for seed in dict.fromkeys(run["seed"] for run in runs))
    esr1, psr1 = (statistics.mean(run[key] for run in base) for key in ("esr1", "psr1"))
    caption = (
        f"Playground, `make bench-methods`, defaults, no anchor, n = {runs[0]['n']['target']} a run; a figure for each of the "
        f"seeds {seeds}. The base model has ESR-1 {esr1:.0f} and PSR-1 {psr1:.0f} on average. All methods compared: "
        "[comparison](../comparison.md)."
    )
    return f"{caption}\n\n{markdown_table(head, lines)}"


def _figures(values: Sequence[float | None]) -> str:
    return ", ".join("-" if value is None else f"{value:.0f}" for value in values)


def updated() -> dict[Path, str]:
    """The text that each page should have now. Raises ToolError for a method without a page, or a page without markers."""
    load_pack()
    from concept_erasure.erasure_core.method import methods
    from concept_erasure.erasure_core.red_team.attack import attacks

    attacks_text = ATTACKS_PAGE.read_text(encoding="utf-8")
    pages = {ATTACKS_PAGE: filled(attacks_text, "attacks", BY, attacks_overview(attacks()), ATTACKS_PAGE)}
    pages |= {PAGE: filled(PAGE.read_text(encoding="utf-8"), "methods", BY, overview(methods()), PAGE)}
    for name, method in methods().items():
        path = FOLDER / f"{name}.md"
        if not path.is_file():
            raise ToolError(f"the method {name!r} has no page: write {path}")
        pages[path] = filled(path.read_text(encoding="utf-8"), "settings", BY, settings_table(method), path)
        if runs := compared(name):
            pages[path] = filled(pages[path], "measured", BY, measured_table(runs, compared(BASE)), path)
    for path in HELP.glob("*/en.md"):
        # the browser asks for the page in its own language, then for this one
        pages[path.parent.with_suffix(".md")] = pages.get(path) or path.read_text(encoding="utf-8")
    return pages


def stale() -> list[Path]:
    """The pages that differ from the code."""
    return [path for path, text in updated().items() if not path.is_file() or path.read_text(encoding="utf-8") != text]


def main(argv: list[str] | None = None) -> int:
    """Rewrite the pages, or check them; 0, or 1 if `--check` finds one stale."""
    parser = argparse.ArgumentParser(prog="python -m devtools.method_docs", description="The settings tables.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the page is stale")
    args = parser.parse_args(argv)
    if args.check:
        for path in stale():
            print(f"{path} is stale; run: python -m devtools.method_docs", file=sys.stderr)
        return 1 if stale() else 0
    registries.main([])
    for path, text in updated().items():
        path.write_text(text, encoding="utf-8")
        print(path)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
