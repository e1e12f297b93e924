"""Keep the table of families and methods in docs/families.md equal to the code and the tests.

python -m devtools.family_docs            rewrite the text between the markers
python -m devtools.family_docs --check    write nothing; exit 1 if it is stale
"""

from __future__ import annotations

import argparse
import sys

from .hosting.comfyui import PACK
from .hosting.pack import load_pack
from .pages import filled, markdown_table

PAGE = PACK / "docs" / "families.md"
BY = "python -m devtools.family_docs"
UNTRIED = ("SD21UnclipL",)
"""Families without a model in the tests; tests/test_families.py runs every method that holds on all the others."""


def table() -> str:
    """Family x method, methods with the same needs in one column; under it the reasons for every refusal."""
    load_pack()
    from concept_erasure.erasure_core.families import FAMILIES
    from concept_erasure.erasure_core.method import methods

    columns: dict[tuple[str, ...], list[str]] = {}
    for name, method in methods().items():
        columns.setdefault(method.needs, []).append(f"`{name}`")
    reasons: list[str] = []

    def cell(name: str, needs: tuple[str, ...]) -> str:
        family = FAMILIES[name]
        why = next((family.lacks[need] for need in needs if need in family.lacks), None)
        maybe = next((family.may_lack[need] for need in needs if need in family.may_lack), None)
        for reason in (why, maybe):
            if reason and reason not in reasons:
                reasons.append(reason)
        refused = why or maybe
        if refused:
            return f"refused ({reasons.index(refused) + 1})"
        return "not tried" if name in UNTRIED else "tested"

    head = ("family (its name in ComfyUI)", "it predicts", *map(", ".join, columns.values()))
    rows = [
        (f"{family.title} (`{name}`)", family.predicts, *(cell(name, needs) for needs in columns))
        for name, family in FAMILIES.items()
    ]
    notes = [f"{number}. {reason[0].upper()}{reason[1:]}." for number, reason in enumerate(reasons, 1)]
    return "\n".join([markdown_table(head, rows), "", "Refused because:", "", *notes])


def updated() -> str:
    """The text that the page should have now. Raises ToolError for a page without markers."""
    return filled(PAGE.read_text(encoding="utf-8"), "families", BY, table(), PAGE)


def main(argv: list[str] | None = None) -> int:
    """Rewrite the page, or check it; 0, or 1 if `--check` finds it stale."""
    parser = argparse.ArgumentParser(prog=BY, description="The table of families and methods.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the page is stale")
    args = parser.parse_args(argv)
    stale = PAGE.read_text(encoding="utf-8") != updated()
    if args.check and stale:
        print(f"{PAGE} is stale; run: {BY}", file=sys.stderr)
    elif stale:
        PAGE.write_text(updated(), encoding="utf-8")
        print(PAGE)
    return int(args.check and stale)


if __name__ == "__main__":
    raise SystemExit(main())
