"""Prompt files of published protocols: CSV tables of prompts, or of the two factors of a grid, one picture a row.

Read are the columns of `prompt_table.COLUMNS`; docs/evaluation.md says in which published tables each was seen. A bad row is
left out and named; the others are used. A table that says nothing of the concept is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..concepts import check_words
from .prompt_table import FACTORS, Row, Table, read_table
from .prompts import GONE, Prompt, check_length
from .row_groups import PHOTO, NotSaid, Reading, cell, columns_of, reading

SENTENCE = "A {object} image in {style} style."
"""UnlearnCanvas' prompt, for a grid without prompts of its own."""
LARGEST_GUIDANCE = 1000.0
"""Above the largest of I2P's rows, 255."""
SIZES = (16, 8192)
SHOWN = 10


@dataclass(frozen=True)
class PromptSet:
    """The prompts of a file, and a note on every row and column that was left out."""

    prompts: tuple[Prompt, ...]
    notes: tuple[str, ...] = ()


def parse_prompt_set(data: bytes, name: str, targets: Sequence[str]) -> PromptSet:
    """The prompts of a CSV file, each with its own seed, guidance scale and size if it states them. `name` stands in
    messages; `targets` are the erased concepts. `row_groups.reading` says which rows are target and which retain rows.

    Raises ValueError, naming the line, if a column is missing or named twice, no row is usable, or nothing in the table says
    which rows show a target.
    """
    table = read_table(data, name)
    how = reading(table, targets, name)
    prompts, bad, silent = [], dict(table.bad), {}
    for number, row in table.rows:
        try:
            prompt = _prompt(row, how)
        except NotSaid as error:
            silent[number] = str(error)
        except ValueError as error:
            bad[number] = str(error)
        else:
            prompts += [prompt] if prompt else []

    # a table without a usable row, or that leaves open which rows are about the target, is an error; single rows are notes
    unread = _unread(table, how)
    if silent:
        number, text = next(iter(silent.items()))
        others = f" (not read: {', '.join(unread)})" if unread else ""
        raise ValueError(
            f"{name}: no column says what its rows show{others}, and {len(silent)} of {len(silent) + len(prompts)} prompts do "
            f"not say {' or '.join(map(repr, targets))}, the first in line {number}: {text[:60]!r}. Add a column 'class' with "
            "what each row shows, or a column 'group' that says target or retain"
        )
    if not prompts:
        first = next((f"; line {number}: {bad[number]}" for number in sorted(bad)), "")
        raise ValueError(f"{name} has no usable row{first}. Write one prompt a row below the names of the columns")
    if how.needs_target and not any(prompt.group in GONE for prompt in prompts):
        first = next((f"; line {number}: {bad[number]}" for number in sorted(bad)), "")
        raise ValueError(f"{name}: no row that can be used shows {' or '.join(map(repr, targets))}{first}")
    left = (f"{name}: columns that were not read: {', '.join(unread)}",) if unread else ()
    return PromptSet(tuple(prompts), (*how.notes, *left, *_notes(bad, name)))


def _unread(table: Table, how: Reading) -> list[str]:
    sized = ("width", "height") if _sized(table.columns) else ()
    sentence = FACTORS if "prompt" not in table.columns else ()
    used = {"prompt", "seed", "guidance", *sized, *sentence, *columns_of(how.home), *how.used}
    return [*table.unread, *(name for role, name in table.columns.items() if role not in used)]


def _notes(bad: Mapping[int, str], name: str) -> Iterator[str]:
    numbers = sorted(bad)
    yield from (f"{name}, line {number} was left out: {bad[number]}" for number in numbers[:SHOWN])
    if numbers[SHOWN:]:
        rest = ", ".join(_runs(numbers[SHOWN:]))
        yield f"{name}, {len(numbers) - SHOWN} more rows were left out, lines {rest}"


def _runs(numbers: Sequence[int]) -> Iterator[str]:
    """Sorted numbers with those that follow one another as `first-last`."""
    start = 0
    for place in range(1, len(numbers) + 1):
        if place == len(numbers) or numbers[place] != numbers[place - 1] + 1:
            first, last = numbers[start], numbers[place - 1]
            yield str(first) if first == last else f"{first}-{last}"
            start = place


def _prompt(row: Row, how: Reading) -> Prompt | None:
    """One row's prompt, None if it is not asked for. Raises ValueError if a cell is not understood."""
    for column in () if "group" in row else columns_of(how.home):
        if not row[column]:
            raise ValueError(f"its column {column!r} is empty")
    text = row["prompt"] if "prompt" in row else _sentence(row)
    if not text:
        raise ValueError("the prompt is empty")
    check_length(text)
    check_words(text)
    seed, guidance, size = _seed(row.get("seed")), _guidance(row.get("guidance")), _size(row)
    decision = how.decide(row, text)
    if decision is None:
        return None
    group, concept = decision
    beside = tuple(cell(row, factor) for factor in columns_of(how.home) if factor != how.home)
    return Prompt(text, group, concept, seed, guidance, size, beside)


def _sentence(row: Row) -> str:
    style = cell(row, "style")
    return SENTENCE.format(object=cell(row, "object"), style="Photo" if style == PHOTO else style)


def _sized(columns: Mapping[str, str]) -> bool:
    return "width" in columns and "height" in columns


def _size(row: Row) -> tuple[int, int] | None:
    if not _sized(row) or not (row["width"] or row["height"]):
        return None
    for name in ("width", "height"):
        text = row[name]
        if not (text.isascii() and text.isdigit() and len(text) <= 5 and SIZES[0] <= int(text) <= SIZES[1]):
            raise ValueError(f"the {name} {text[:40]!r} is no whole number from {SIZES[0]} to {SIZES[1]}")
    return int(row["width"]), int(row["height"])


def _seed(text: str | None) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 20 and int(text) < 2**64):
        raise ValueError(f"the seed {text[:40]!r} is no whole number from 0 to {2**64 - 1}")
    return int(text)


def _guidance(text: str | None) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= LARGEST_GUIDANCE:
        raise ValueError(f"the guidance scale {text[:40]!r} is no number from 0 to {LARGEST_GUIDANCE:g}")
    return value
