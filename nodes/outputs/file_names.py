"""Names of the files that nodes write: placeholders filled in, fit for every file system, and never one used before."""

from __future__ import annotations

import itertools
import os
import re
import time
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

LONGEST_NAME = 200
_PLACEHOLDERS = {"year": "%Y", "month": "%m", "day": "%d", "hour": "%H", "minute": "%M", "second": "%S"}
_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10))}
_NUMBERED = re.compile(r"(.+)_(\d{5,9})_")
_highest: dict[str, int] = {}
"""The highest number seen in this process, by folder and prefix; of files, too, that are gone by now."""


def filled_in(prefix: str, width: int = 0, height: int = 0) -> str:
    """The prefix with the placeholders that ComfyUI's save nodes know: `%year%` ... `%second%`, `%width%`, `%height%`."""
    now = time.localtime()
    for name, form in _PLACEHOLDERS.items():
        prefix = prefix.replace(f"%{name}%", time.strftime(form, now))
    return prefix.replace("%width%", str(width)).replace("%height%", str(height))


def safe_prefix(prefix: str, width: int = 0, height: int = 0) -> Path:
    """The file name prefix, `filled_in`, as a relative path. Raises ValueError if it leaves the output folder, or is no
    name that every file system takes."""
    prefix = filled_in(prefix.strip(), width, height)
    if any(unicodedata.category(letter) == "Cc" for letter in prefix):
        raise ValueError(
            f"the file name {prefix!r} holds a control character; retype it with ordinary characters on one line"
        )
    path = Path(prefix.replace("\\", "/"))
    windows_drive = len(prefix) > 1 and prefix[1] == ":"
    if not path.name or path.is_absolute() or ".." in path.parts or windows_drive:
        raise ValueError(
            f"the file name {prefix!r} is empty or leads out of the output folder; give a plain name like "
            f"'erased_circle' or 'shapes/erased_circle'"
        )
    # what this system takes may not be taken by the next one: files are handed on
    longest = max(len(part.encode()) for part in path.parts)
    if longest > LONGEST_NAME:
        raise ValueError(
            f"the file name {prefix[:40]!r}... has a part of {longest} bytes; give one of at most {LONGEST_NAME}, "
            f"as file systems take no more than 255 with the number and the ending"
        )
    for part in path.parts:
        trouble = _not_on_windows(part)
        if trouble:
            raise ValueError(f"the file name {prefix!r} {trouble}, which Windows cannot take; leave that out")
    return path


def _not_on_windows(part: str) -> str | None:
    """Why one part of a path is no name on Windows, or None."""
    foreign = next((letter for letter in part if letter in '<>:"|?*'), None)
    if foreign:
        return f"holds {foreign!r}"
    if part[-1] in ". ":
        return f"has a part that ends in {part[-1]!r}"
    if part.split(".")[0].rstrip().casefold() in _RESERVED:
        return f"has the part {part!r}, the name of a device"
    return None


def numbered(folder: Path, prefix: Path, ending: str = ".safetensors") -> Iterator[Path]:
    """The paths `<prefix>_00001_<ending>` in `folder`, from one more than the highest number of a file that is there or was
    `seen`: what a loader has read under a name is not what would be there now."""
    base, names = folder / prefix, []
    with suppress(OSError):  # no such folder yet; one that cannot be read is named when the file is written
        names = os.listdir(base.parent)
    found = (_NUMBERED.fullmatch(name.removesuffix(ending)) for name in names if name.endswith(ending))
    taken = [int(match[2]) for match in found if match and match[1] == base.name]
    for number in itertools.count(1 + max(*taken, _highest.get(_key(base), 0), 0)):
        yield base.with_name(f"{base.name}_{number:05}_{ending}")


def seen(path: Path) -> None:
    """Remember a file: its number is not given again while this process runs."""
    match = _NUMBERED.fullmatch(path.stem)
    if match:
        key = _key(path.with_name(match[1]))
        _highest[key] = max(_highest.get(key, 0), int(match[2]))


def _key(base: Path) -> str:
    return os.path.normcase(os.path.abspath(base))
