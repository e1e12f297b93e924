"""Text in a Markdown page that a command writes, between two markers, and its tables; the rest of the page is written by
hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .hosting.errors import ToolError

BEGIN = "<!-- {0}: begin, written by `{1}` -->"
END = "<!-- {0}: end -->"


def filled(page: str, what: str, by: str, text: str, path: Path) -> str:
    """`page`, which is at `path`, with `text` between the markers of `what`, which the command `by` writes.

    Raises ToolError if a marker is missing or there twice.
    """
    begin, end = BEGIN.format(what, by), END.format(what)
    if page.count(begin) != 1 or page.count(end) != 1 or page.index(begin) > page.index(end):
        raise ToolError(f"{path} needs the lines {begin!r} and {end!r}, once each and in this order")
    before, rest = page.split(begin)
    return f"{before}{begin}\n\n{text}\n\n{end}{rest.split(end)[1]}"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Rows as a Markdown table; None becomes a dash."""
    lines = [_line(head), "|" + "---|" * len(head), *map(_line, rows)]
    return "\n".join(lines)


def markdown_list(rows: Sequence[tuple[str, str]]) -> str:
    """Names and what they are as a Markdown list: help pages are read in a panel of 300 pixels, too narrow for a table."""
    return "\n".join(f"- {name}: {' '.join(text.split())}" for name, text in rows)


def _line(cells: Sequence[Any]) -> str:
    texts = ("-" if cell is None else str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells)
    return "| " + " | ".join(texts) + " |"
