"""CSV tables of prompts, read into rows by the columns that the field knows. A bad row is named; the others are read."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

COLUMNS = {
    "prompt": ("prompt",),
    "seed": ("seed", "evaluation_seed", "sd_seed"),
    "guidance": ("guidance", "guidance_scale", "evaluation_guidance", "sd_guidance_scale"),
    "width": ("width", "sd_image_width"),
    "height": ("height", "sd_image_height"),
    "class": ("class", "concept", "label", "label_str", "profession"),
    "artist": ("artist",),
    "group": ("group",),
    "type": ("type",),
    "categories": ("categories",),
    "source": ("source",),
    "style": ("style", "theme"),
    "object": ("object",),
}
"""The names that each column may have, in any case. docs/evaluation.md says which published table calls it so."""
FACTORS = ("style", "object")
_BROKEN = "\ufffd"

Row = Mapping[str, str]


@dataclass(frozen=True)
class Table:
    """The rows of a file with the number of each one's first line, by the roles of `COLUMNS`; what is wrong with the lines
    that are no row; and the columns with a name that is no role."""

    rows: list[tuple[int, Row]] = field(default_factory=list)
    bad: dict[int, str] = field(default_factory=dict)
    unread: tuple[str, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)


def read_table(data: bytes, name: str) -> Table:
    """A CSV file (UTF-8; comma, semicolon or tab) whose first line names the columns. `name` stands in messages.

    Raises ValueError, naming the line, if the header is no row, lacks the prompts, or names a column twice.
    """
    lines = io.StringIO(data.decode("utf-8-sig", errors="replace"), newline=None).readlines()
    head = next((place for place, line in enumerate(lines) if line.strip()), None)
    if head is None:
        raise ValueError(f"{name} is empty; its first line must name the columns, at least 'prompt'")
    records = _records(lines, head, max(",;\t", key=lines[head].count))
    _, header = next(records)
    if isinstance(header, str):
        raise ValueError(f"{name}, line {head + 1}: {header}")
    header = [cell.strip() for cell in header]
    places = _places(header, f"{name}, line {head + 1}")
    unread = tuple(cell for place, cell in enumerate(header) if cell and place not in places.values())

    # a broken row is no reason to leave the others out
    table = Table(unread=unread, columns={role: header[place] for role, place in places.items()})
    for number, cells in records:
        if isinstance(cells, str):
            table.bad[number] = cells
        elif any(_BROKEN in cell for cell in cells):
            table.bad[number] = "it is not UTF-8 text; save the file as UTF-8"
        else:
            table.rows.append((number, {role: cells[place].strip() for role, place in places.items()}))
    return table


def _records(lines: Sequence[str], place: int, delimiter: str) -> Iterator[tuple[int, list[str] | str]]:
    """The cells of each row and its line number, the header first; a string says what is wrong with it. Of a broken row
    only its first line is lost: a quote that is never closed would take the whole rest of the file."""
    width = None
    while place < len(lines):
        reader = csv.reader((lines[i] for i in range(place, len(lines))), delimiter=delimiter, strict=True)
        problem, cells = "", []
        try:
            cells = next(reader)
        except csv.Error as error:
            problem = f"it is no row of a CSV file ({error}); put text with commas, quotes or line breaks into quotes"
        width = width or len(cells)
        if cells and len(cells) != width:
            problem = (
                f"it has {len(cells)} cells, and the file {width} columns; put a prompt with {delimiter!r} in quotes"
            )
        if problem or any(cell.strip() for cell in cells):
            yield place + 1, problem or cells
        place += 1 if problem else reader.line_num


def _places(header: Sequence[str], where: str) -> dict[str, int]:
    """Where each known column stands. Raises ValueError for one that is missing or named twice."""
    names_in_file = [cell.casefold() for cell in header]
    places: dict[str, int] = {}
    for role, names in COLUMNS.items():
        found = [place for place, cell in enumerate(names_in_file) if cell in names]
        if len(found) > 1:
            raise ValueError(
                f"{where}: the columns {', '.join(repr(header[place]) for place in found)} mean the same; leave one of them"
            )
        places |= {role: found[0]} if found else {}
    if "prompt" not in places and not all(factor in places for factor in FACTORS):
        shown = ", ".join(repr(cell) for cell in header[:12])
        raise ValueError(f"{where}: there is no column 'prompt', nor both 'style' and 'object'; there are {shown}")
    return places
