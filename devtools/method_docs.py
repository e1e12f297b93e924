"""Keep the settings tables of Erase Concept's help page equal to the code.

python -m devtools.method_docs            rewrite what stands between the markers
python -m devtools.method_docs --check    write nothing; exit 1 if the page is stale
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from typing import Any

from .comfyui import PACK
from .pack import load_pack

PAGE = PACK / "web" / "docs" / "ErasureEraseConcept" / "en.md"
BEGIN = "<!-- settings: begin, written by `python -m devtools.method_docs` -->"
END = "<!-- settings: end -->"


def tables() -> str:
    """Every setting of every method in Markdown. A setting that several methods have alike stands once."""
    load_pack()
    from concept_erasure.erasure_core.method import methods, settings_of

    owners: dict[tuple[str, str], list[str]] = {}
    fields: dict[tuple[str, str], dataclasses.Field] = {}
    for name, method in methods().items():
        for field in settings_of(method):
            key = (field.name, repr((field.default, sorted(field.metadata.items()))))
            owners.setdefault(key, []).append(name)
            fields[key] = field
    groups: dict[tuple[str, ...], list[dataclasses.Field]] = {}
    for key, names in owners.items():
        groups.setdefault(tuple(names), []).append(fields[key])
    parts = []
    for names, group in sorted(groups.items(), key=lambda item: (-len(item[0]), item[0])):
        rows = ["| setting | default | range | what it does |", "|---|---|---|---|", *map(_row, group)]
        parts.append("\n".join([f"### Settings of {_listed(names)}", "", *rows]))
    return "\n\n".join(parts)


def _listed(names: tuple[str, ...]) -> str:
    quoted = [f"`{name}`" for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} and {quoted[-1]}"


def _row(field: dataclasses.Field) -> str:
    help_text = field.metadata["help"] + (" *(advanced)*" if field.metadata["advanced"] else "")
    cells = [f"`{field.name}`", _value(field.default), _range(field), help_text]
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _value(value: Any) -> str:
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _range(field: dataclasses.Field) -> str:
    if field.metadata["choices"] is not None:
        return ", ".join(f"`{choice}`" for choice in field.metadata["choices"])
    low, high = (_bound(field.metadata[key]) for key in ("minimum", "maximum"))
    return f"{low} to {high}"


def _bound(value: float | None) -> str:
    return "any" if value is None else f"{value:g}"


def updated(page: str) -> str:
    """`page` with the tables of now between its markers. Raises ValueError if a marker is missing or there twice."""
    if page.count(BEGIN) != 1 or page.count(END) != 1 or page.index(BEGIN) > page.index(END):
        raise ValueError(f"{PAGE} needs the lines {BEGIN!r} and {END!r}, once each and in this order")
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{tables()}\n\n{END}{after}"


def is_current() -> bool:
    """True if the page says what the code says."""
    page = PAGE.read_text(encoding="utf-8")
    return page == updated(page)


def main(argv: list[str] | None = None) -> int:
    """Rewrite the page, or check it; 0, or 1 if `--check` finds it stale."""
    parser = argparse.ArgumentParser(prog="python -m devtools.method_docs", description="The settings tables.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the page is stale")
    args = parser.parse_args(argv)
    if args.check:
        if is_current():
            return 0
        print(f"{PAGE} is stale; run: python -m devtools.method_docs", file=sys.stderr)
        return 1
    PAGE.write_text(updated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(PAGE)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
