"""Prompt files of published protocols: CSV tables of prompts, or of the two factors of a grid, one picture a row.

Read are the columns of Imagenette tables (arXiv 2410.15618, section 5.1), of I2P (arXiv 2211.05105), and the style and object
of UnlearnCanvas (arXiv 2402.11846). A bad row is left out and named; the others are used.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..concepts import check_words
from .prompts import GONE, GROUPS, RETAIN, TARGET, Prompt, check_length, named

COLUMNS = {
    "prompt": ("prompt",),
    "seed": ("seed", "evaluation_seed", "sd_seed"),
    "guidance": ("guidance", "guidance_scale", "evaluation_guidance", "sd_guidance_scale"),
    "class": ("class", "concept", "label"),
    "group": ("group",),
    "style": ("style", "theme"),
    "object": ("object",),
}
"""What each column may be called, whatever its case."""
FACTORS = ("style", "object")
SENTENCE = "A {object} image in {style} style."
"""UnlearnCanvas' prompt, for a grid without prompts of its own."""
LARGEST_GUIDANCE = 100.0
SHOWN = 10
_BROKEN = "\ufffd"

Row = Mapping[str, str]


@dataclass(frozen=True)
class PromptSet:
    """The prompts of a file, and a note on every row that was left out."""

    prompts: tuple[Prompt, ...]
    notes: tuple[str, ...] = ()


def parse_prompt_set(data: bytes, name: str, targets: Sequence[str]) -> PromptSet:
    """The prompts of a CSV file (UTF-8; comma, semicolon or tab), each with its own seed and guidance scale if it states
    them. `name` stands in messages; `targets` are the erased concepts.

    A grid's row, and one with a class, is a target row if it says a target, and else a retain row; a `group` column decides
    instead where there is one. Without any of them every row is a target row, as I2P means it.

    Raises ValueError, naming the line, if a column is missing or named twice, no row is usable, or none says a target.
    """
    lines = io.StringIO(data.decode("utf-8-sig", errors="replace"), newline=None).readlines()
    rows: list[tuple[str, Row]] = []
    bad: dict[int, str] = {}
    for number, found in _rows(lines, name):
        if isinstance(found, str):
            bad[number] = found
        else:
            rows.append((f"{name}, line {number}", found))
    prompts = []
    home = _home(rows, targets, name)
    for where, row in rows:
        try:
            prompts.append(_prompt(row, where, targets, home))
        except ValueError as error:
            bad[int(where.rsplit(" ", 1)[1])] = str(error).removeprefix(f"{where}: ")
    if not prompts:
        first = next((f"; line {number}: {bad[number]}" for number in sorted(bad)), "")
        raise ValueError(f"{name} has no usable row{first}. Write one prompt a row below the names of the columns")
    return PromptSet(tuple(prompts), tuple(_notes(bad, name)))


def _notes(bad: Mapping[int, str], name: str) -> Iterator[str]:
    numbers = sorted(bad)
    yield from (f"{name}, line {number} was left out: {bad[number]}" for number in numbers[:SHOWN])
    if numbers[SHOWN:]:
        rest = ", ".join(map(str, numbers[SHOWN:]))
        yield f"{name}, {len(numbers) - SHOWN} more rows were left out, lines {rest}"


def _rows(lines: Sequence[str], name: str) -> Iterator[tuple[int, Row | str]]:
    """Each row below the header with the number of its first line, by the columns of `COLUMNS`; a string says what is
    wrong with it."""
    head = next((place for place, line in enumerate(lines) if line.strip()), None)
    if head is None:
        raise ValueError(f"{name} is empty; its first line must name the columns, at least 'prompt'")
    delimiter = max(",;\t", key=lines[head].count)
    records = _records(lines, head, delimiter)
    _, header = next(records)
    if isinstance(header, str):
        raise ValueError(f"{name}, line {head + 1}: {header}")
    places = _places(header, f"{name}, line {head + 1}")
    for number, cells in records:
        if isinstance(cells, str):
            yield number, cells
        elif any(_BROKEN in cell for cell in cells):
            yield number, "it is not UTF-8 text; save the file as UTF-8"
        else:
            yield number, {role: cells[place].strip() for role, place in places.items()}


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
    said = [cell.strip().casefold() for cell in header]
    places: dict[str, int] = {}
    for role, names in COLUMNS.items():
        found = [place for place, cell in enumerate(said) if cell in names]
        if len(found) > 1:
            raise ValueError(
                f"{where}: the columns {', '.join(repr(header[place]) for place in found)} mean the same; leave one of them"
            )
        places |= {role: found[0]} if found else {}
    if "prompt" not in places and not all(factor in places for factor in FACTORS):
        shown = ", ".join(repr(cell) for cell in header[:12])
        raise ValueError(f"{where}: there is no column 'prompt', nor both 'style' and 'object'; there are {shown}")
    return places


def _target(said: str, targets: Sequence[str]) -> str | None:
    return next((target for target in targets if target.casefold() == said.casefold()), None)


def _home(rows: Sequence[tuple[str, Row]], targets: Sequence[str], name: str) -> str:
    """The column that says what a row shows: a grid's factor in which the targets stand, or the class; "" without any.
    Raises ValueError if no row says a target."""
    columns = rows[0][1] if rows else {}
    asked = FACTORS if all(factor in columns for factor in FACTORS) else ("class",) if "class" in columns else ()
    home = next((c for target in targets for c in asked for _, row in rows if _target(row[c], [target])), "")
    if asked and not home and "group" not in columns:
        known = list(dict.fromkeys(row[column] for column in asked for _, row in rows))
        raise ValueError(
            f"{name}: no row says {' or '.join(map(repr, targets))} in its column {' or '.join(asked)}; there are "
            f"{', '.join(map(repr, known[:SHOWN]))}. Write the concepts as the file calls them"
        )
    return home or (asked[0] if asked else "")


def _prompt(row: Row, where: str, targets: Sequence[str], home: str) -> Prompt:
    """One row's prompt. Raises ValueError, beginning with `where`, if a cell is not understood."""
    for column in (*(FACTORS if home in FACTORS else ()), *([home] if home else [])):
        if not row[column]:
            raise ValueError(f"{where}: its column {column!r} is empty")
    text = row["prompt"] if "prompt" in row else SENTENCE.format(object=row["object"], style=row["style"])
    if not text:
        raise ValueError(f"{where}: the prompt is empty")
    check_length(text, where)
    try:
        check_words(text)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    group, concept = _group(row, where, text, targets, home)
    return Prompt(text, group, concept, _seed(row.get("seed"), where), _guidance(row.get("guidance"), where))


def _group(row: Row, where: str, text: str, targets: Sequence[str], home: str) -> tuple[str, str]:
    """The group of a row, and what its picture shows."""
    columns = FACTORS if home in FACTORS else (home,) if home else ()
    said = next((target for column in columns if (target := _target(row[column], targets))), None)
    group = row["group"].casefold() if "group" in row else TARGET if said or not home else RETAIN
    known = [one for one in GROUPS if one != GROUPS[-1]]
    if group not in known:
        raise ValueError(f"{where}: the group {row['group'][:40]!r} is unknown; write {', '.join(known)}")
    if group in GONE:
        return group, said or named(text, targets)
    return group, row[home] if home else ""


def _seed(cell: str | None, where: str) -> int | None:
    if not cell:
        return None
    if not (cell.isascii() and cell.isdigit() and len(cell) <= 20 and int(cell) < 2**64):
        raise ValueError(f"{where}: the seed {cell[:40]!r} is no whole number from 0 to {2**64 - 1}")
    return int(cell)


def _guidance(cell: str | None, where: str) -> float | None:
    if not cell:
        return None
    try:
        value = float(cell)
    except ValueError:
        value = -1.0
    if not 0 <= value <= LARGEST_GUIDANCE:
        raise ValueError(f"{where}: the guidance scale {cell[:40]!r} is no number from 0 to {LARGEST_GUIDANCE:g}")
    return value
