"""Sorts the rows of a prompt table into target and retain rows, by the columns that published tables have."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from .judges.labels import same, says, spaced
from .prompt_table import FACTORS, Row, Table
from .prompts import EMPTY, GONE, GROUPS, RETAIN, TARGET, named

ERASED = ("erased", "target", "0")
"""The values of `type` for a row whose concept should be gone: MACE's tables (0 for its artists) and UCE's."""
KEPT = ("others", "preserved", "holdout", "retain", "retained", "1")
PHOTO = "Seed Images"
"""UnlearnCanvas' style that is none: its prompts say "Photo style"."""
CAPTIONS = "coco"
SHOWN = 10

Decision = tuple[str, str] | None
"""The group of a row and what its picture shows; None for a row that is not asked for."""


class NotSaid(ValueError):
    """A row of a table without a word on what its rows show, whose prompt says no target either."""


@dataclass(frozen=True)
class Reading:
    """How the rows of one table are understood. `decide(row, text)` raises ValueError, without the place, for a row that
    contradicts itself. `home` is the role of the column that names what is shown ("" without one), `used` are the other roles
    that it reads, `notes` what a reader of the report must know; `needs_target` if a table without any target is of no use."""

    decide: Callable[[Row, str], Decision]
    home: str = ""
    used: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    needs_target: bool = True


def reading(table: Table, targets: Sequence[str], name: str) -> Reading:
    """The most telling columns decide: `group`, then a column that names what is shown (and `type` beside it), then `type`
    and the prompt, then I2P's `categories`, then a `source` of captions, then the file's name, at last the prompts alone.

    Raises ValueError if a column names what is shown and no row names a target there.
    """
    home = _home(table, targets, name)
    kinds = _types(table)
    if "group" in table.columns:
        return Reading(lambda row, text: _by_group(row, text, targets, home), home, ("group",), needs_target=False)
    if home:
        notes = tuple(_of_classes(table, targets, home, name))
        return Reading(lambda row, _: _by_class(row, targets, home, kinds), home, ("type",) if kinds else (), notes)
    if kinds:
        return Reading(lambda row, text: _by_type(row, text, targets), used=("type",))
    if "categories" in table.columns:
        return _of_i2p(table, targets, name)
    if "source" in table.columns and all(row["source"].casefold().startswith(CAPTIONS) for _, row in table.rows):
        note = f"{name}: its source is {CAPTIONS}, so every row is a caption that counts as one that stays"
        return Reading(lambda *_: (RETAIN, ""), used=("source",), notes=(note,), needs_target=False)
    meant = next((target for target in targets if same(name.rsplit(".", 1)[0].replace("-", " "), target)), None)
    if meant:
        note = f"{name} is called like {meant!r}, so every row counts as a target"
        return Reading(lambda *_: (TARGET, meant), notes=(note,))
    return Reading(lambda _, text: (TARGET, _target_in(text, targets)))


def columns_of(home: str) -> tuple[str, ...]:
    """The roles that name what a row shows: both factors of a grid, or the one column."""
    return FACTORS if home in FACTORS else (home,) if home else ()


def cell(row: Row, role: str) -> str:
    """The text of a cell, with spaces for underscores; UnlearnCanvas' photos by one name."""
    text = spaced(row[role])
    return PHOTO if role == "style" and any(same(text, name) for name in (PHOTO, "photo")) else text


def _target_of(row: Row, role: str, targets: Sequence[str]) -> str | None:
    """The target that a cell names. An artist may be named by the family name alone, as "Van Gogh" and "Picasso" are."""
    shown = cell(row, role)
    for target in targets:
        if same(shown, cell({role: target}, role)):
            return target
        if role == "artist":
            one, other = (text.casefold().split() for text in (shown, spaced(target)))
            short = min(len(one), len(other))
            if short and one[-short:] == other[-short:]:
                return target
    return None


def _home(table: Table, targets: Sequence[str], name: str) -> str:
    """The column that says what a row shows: of a grid's factors the one in which a target stands, or the class, or the
    artist; "" without any. Raises ValueError if there are such columns and no row says a target."""
    grid = FACTORS if all(factor in table.columns for factor in FACTORS) else ()
    asked = [*grid, *(role for role in ("class", "artist") if role in table.columns)]
    for target in targets:
        for role in asked:
            if any(_target_of(row, role, [target]) for _, row in table.rows):
                return role
    if asked and "group" not in table.columns:
        known = list(dict.fromkeys(row[role] for role in asked for _, row in table.rows))
        raise ValueError(
            f"{name}: no row says {' or '.join(map(repr, targets))} in its column "
            f"{' or '.join(table.columns[role] for role in asked)}; there are {', '.join(map(repr, known[:SHOWN]))}. Write the "
            "concepts as the file calls them"
        )
    return asked[0] if asked else ""


def _types(table: Table) -> bool:
    """True if the column `type` says of every row whether it should be gone, as MACE's and UCE's does."""
    types = {row["type"].casefold() for _, row in table.rows} if "type" in table.columns else set()
    return bool(types) and types <= {*ERASED, *KEPT}


def _by_group(row: Row, text: str, targets: Sequence[str], home: str) -> Decision:
    group = row["group"].casefold()
    known = [one for one in GROUPS if one != EMPTY]
    if group not in known:
        raise ValueError(f"the group {row['group'][:40]!r} is unknown; write {', '.join(known)}")
    if group in GONE:
        named_targets = (_target_of(row, role, targets) for role in columns_of(home))
        return group, next(filter(None, named_targets), None) or named(text, targets)
    return group, cell(row, home) if home else ""


def _by_class(row: Row, targets: Sequence[str], home: str, kinds: bool) -> Decision:
    target = next(filter(None, (_target_of(row, role, targets) for role in columns_of(home))), None)
    if kinds:
        _check_type(row, target, f"its {home} is {row[home][:40]!r}")
    return (TARGET, target) if target else (RETAIN, cell(row, home))


def _by_type(row: Row, text: str, targets: Sequence[str]) -> Decision:
    target = next((target for target in targets if says(text, target)), None)
    _check_type(row, target, f"its prompt says {text[:40]!r}")
    return (TARGET, target) if target else (RETAIN, "")


def _check_type(row: Row, target: str | None, shown: str) -> None:
    if (row["type"].casefold() in ERASED) != bool(target):
        which = f"which is {target!r}, and that was erased" if target else "which is none of the concepts"
        raise ValueError(f"its type is {row['type']!r}, but {shown}, {which}")


def _target_in(text: str, targets: Sequence[str]) -> str:
    target = next((target for target in targets if says(text, target)), None)
    if target is None:
        raise NotSaid(text)
    return target


def _of_i2p(table: Table, targets: Sequence[str], name: str) -> Reading:
    """I2P's tables (arXiv 2211.05105): all prompts are taken for the concept, as all its evaluations do; of a concept that
    is one of the categories only its own."""
    listed = [[part.strip() for part in row["categories"].split(",")] for _, row in table.rows]
    of_these = [target for target in targets if any(same(part, target) for parts in listed for part in parts)]
    if not of_these:
        note = (
            f"{name}: no column names {' or '.join(map(repr, targets))}; every row counts as a target, as I2P is meant"
        )
        return Reading(lambda _, text: (TARGET, named(text, targets)), notes=(note,))

    def decide(row: Row, _: str) -> Decision:
        parts = row["categories"].split(",")
        shown = next((target for target in of_these if any(same(part, target) for part in parts)), None)
        return (TARGET, shown) if shown else None

    others = sum(not any(same(part, target) for part in parts for target in of_these) for parts in listed)
    note = f"{name}: {others} rows of other categories than {', '.join(of_these)} were left out"
    return Reading(decide, used=("categories",), notes=(note,) if others else ())


def _of_classes(table: Table, targets: Sequence[str], home: str, name: str) -> Iterator[str]:
    """Notes on targets that no row names, and on names that are taken for a target."""
    for target in targets:
        named_so = {
            row[role]: None for role in columns_of(home) for _, row in table.rows if _target_of(row, role, [target])
        }
        if not named_so:
            yield f"{name}: no row says {target!r}"
        yield from (
            f"{name}: the artist {artist!r} is taken for {target!r}"
            for artist in named_so
            if home == "artist" and not same(artist, target)
        )
