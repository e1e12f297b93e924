"""The pictures and names that the picture book is trained on: four npm packages, pinned, fetched by the training command.

Nothing of them is in the repository; CREDITS.md beside this file names their authors and licences.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from devtools.hosting import archives
from devtools.hosting.errors import ToolError
from devtools.hosting.install import cache
from devtools.hosting.lock import locked


@dataclass(frozen=True)
class Package:
    """An npm package: what npm calls it, and the SHA-256 of the archive that `npm pack` gives."""

    name: str
    sha256: str

    @property
    def folder(self) -> str:
        """The name of its folder here."""
        return self.name.lstrip("@").replace("/", "-")


@dataclass(frozen=True)
class Style:
    """A set of drawings: its word in captions, its package, and where a picture lies in it."""

    word: str
    package: Package
    folder: str
    ending: str


TWEMOJI = Package("emoji-datasource-twitter@16.0.0", "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877")
NOTO = Package("emoji-datasource-google@16.0.0", "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438")
FLUENT = Package("@lobehub/fluent-emoji-3d@1.1.0", "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58")
NAMES = Package("emojibase-data@17.0.0", "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a")
STYLES = (
    Style("flat", TWEMOJI, "img/twitter/64", ".png"),
    Style("shaded", NOTO, "img/google/64", ".png"),
    Style("glossy", FLUENT, "assets", ".webp"),
)
JOINER = "fe0f"
"""The variation selector that some sets put into a file's name and others leave out."""


@dataclass(frozen=True)
class Entry:
    """One emoji of the data: code points as in a file's name, name in lower case, group and subgroup."""

    code: str
    name: str
    group: int
    subgroup: str


def folder() -> Path:
    """Where the book keeps all that is not in the repository: packages and training checkpoints."""
    return cache() / "picture-book"


def fetch(to: Path | None = None) -> Path:
    """Download, check and unpack the packages that are not there yet; returns their folder.

    Raises ToolError if npm is missing, cannot reach its registry, or brings another archive than the pinned one.
    """
    to = to or folder() / "packages"
    with locked(to.with_suffix(".lock"), lambda: print("another process is downloading the pictures, waiting for it")):
        for package in (*(style.package for style in STYLES), NAMES):
            if not (to / package.folder).is_dir():
                _fetch(package, to / package.folder)
    return to


def _fetch(package: Package, place: Path) -> None:
    """Put one package in place by a rename, so that it is whole or absent."""
    if shutil.which("npm") is None:
        raise ToolError("npm is not installed; it is needed once, to download the pictures (Debian: apt install npm)")
    part = place.with_name(place.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    done = subprocess.run(["npm", "pack", package.name], cwd=part, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ToolError(f"npm could not download {package.name}:\n{done.stderr[-1000:]}")
    (archive,) = part.glob("*.tgz")
    unpack(archive, package, part)
    archive.unlink()
    part.rename(place)


def unpack(archive: Path, package: Package, to: Path) -> None:
    """Unpack an archive that is the pinned one; raises ToolError for any other, and then unpacks nothing."""
    archives.check_hash(archive, package.sha256)
    archives.unpack(archive, to)


def entries(packages: Path) -> list[Entry]:
    """All emoji of the data, in its order."""
    data = packages / NAMES.folder / "package"
    subgroups = json.loads((data / "meta" / "groups.json").read_text(encoding="utf-8"))["subgroups"]
    rows = json.loads((data / "en" / "data.json").read_text(encoding="utf-8"))
    return [
        Entry(
            row["hexcode"].lower(),
            row["label"].lower().replace("’", "'"),
            row["group"],
            subgroups[str(row["subgroup"])],
        )
        for row in rows
        if "group" in row
    ]


def picture(packages: Path, style: Style, code: str) -> Path | None:
    """The file of an emoji in a style, or None if the set has none."""
    place = packages / style.package.folder / "package" / style.folder
    return next((path for name in _spellings(code) if (path := place / f"{name}{style.ending}").is_file()), None)


def _spellings(code: str) -> Iterator[str]:
    """The names under which the sets keep one emoji: with and without the variation selector."""
    points = [point for point in code.split("-") if point != JOINER]
    yield code
    yield "-".join(points)
    yield "-".join([points[0], JOINER, *points[1:]])
