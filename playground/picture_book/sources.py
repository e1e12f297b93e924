"""The pictures and names that the picture book is trained on: four npm packages, pinned, fetched by the training command.

Nothing of them is in the repository; CREDITS.md beside this file names their authors and licences.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from devtools.errors import ToolError
from devtools.install import cache


@dataclass(frozen=True)
class Style:
    """A set of drawings: its word in captions, its package, and where a picture lies in it."""

    word: str
    package: str
    folder: str
    ending: str


STYLES = (
    Style("flat", "emoji-datasource-twitter@16.0.0", "img/twitter/64", ".png"),
    Style("shaded", "emoji-datasource-google@16.0.0", "img/google/64", ".png"),
    Style("glossy", "@lobehub/fluent-emoji-3d@1.1.0", "assets", ".webp"),
)
NAMES = "emojibase-data@17.0.0"
JOINER = "fe0f"
"""The variation selector that some sets put into a file's name and others leave out."""


@dataclass(frozen=True)
class Entry:
    """One emoji of the data: code points as in a file's name, name, other words for it, group and subgroup."""

    code: str
    name: str
    tags: tuple[str, ...]
    group: int
    subgroup: str


def folder() -> Path:
    """Where the packages are kept, outside the repository."""
    return cache() / "picture-book" / "packages"


def fetch(to: Path | None = None) -> Path:
    """Download and unpack the packages that are not there yet; returns their folder.

    Raises ToolError if npm is missing or cannot reach its registry.
    """
    to = to or folder()
    for package in (*(style.package for style in STYLES), NAMES):
        place = to / _plain(package)
        if place.is_dir():
            continue
        if shutil.which("npm") is None:
            raise ToolError("npm is not installed; it is needed once, to download the pictures (Debian: apt install npm)")
        part = place.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        done = subprocess.run(["npm", "pack", package], cwd=part, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ToolError(f"npm could not download {package}:\n{done.stderr[-1000:]}")
        (archive,) = part.glob("*.tgz")
        with tarfile.open(archive) as tar:
            safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
            tar.extractall(part, **safe)
        archive.unlink()
        part.rename(place)
    return to


def _plain(package: str) -> str:
    return package.lstrip("@").replace("/", "-")


def entries(packages: Path) -> list[Entry]:
    """All emoji of the data, in its order."""
    data = packages / _plain(NAMES) / "package"
    subgroups = json.loads((data / "meta" / "groups.json").read_text(encoding="utf-8"))["subgroups"]
    rows = json.loads((data / "en" / "data.json").read_text(encoding="utf-8"))
    return [
        Entry(row["hexcode"].lower(), row["label"], tuple(row.get("tags", ())), row["group"], subgroups[str(row["subgroup"])])
        for row in rows
        if "group" in row
    ]


def picture(packages: Path, style: Style, code: str) -> Path | None:
    """The file of an emoji in a style, or None if the set has none."""
    place = packages / _plain(style.package) / "package" / style.folder
    return next((path for name in _spellings(code) if (path := place / f"{name}{style.ending}").is_file()), None)


def _spellings(code: str) -> Iterator[str]:
    """The names under which the sets keep one emoji: with and without the variation selector."""
    points = [point for point in code.split("-") if point != JOINER]
    yield code
    yield "-".join(points)
    yield "-".join([points[0], JOINER, *points[1:]])
