"""The checkpoints, judges and ready edits of both small worlds, expanded from the repository's weights into a models folder."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from devtools.hosting.comfyui import PACK, Host
from devtools.hosting.errors import ToolError
from devtools.hosting.install import cache
from devtools.hosting.lock import locked
from playground.weights import CHECKPOINT

FLOW = Path("checkpoints", "playground_flow.safetensors")
JUDGE = Path("concept_judges", "playground")
EDIT = Path("loras", "playground_erased_circle.safetensors")
EDIT_WEIGHTS = PACK / "playground" / "weights" / "erased_circle.safetensors"
STAMP = Path("playground.stamp")
BOOK = Path("checkpoints", "picture_book.safetensors")
BOOK_JUDGE = Path("concept_judges", "picture_book")
BOOK_EDIT = Path("loras", "picture_book_erased_cat.safetensors")
BOOK_EDIT_WEIGHTS = PACK / "playground" / "picture_book" / "weights" / "erased_cat.safetensors"
BOOK_STAMP = Path("picture_book.stamp")
_EDITS = {EDIT: EDIT_WEIGHTS, BOOK_EDIT: BOOK_EDIT_WEIGHTS}


class BuildError(ToolError):
    """A builder failed; the message is its output."""


def all_models(host: Host) -> Path:
    """The models folder with both worlds in it, as `playground_models` and `picture_book_models` leave it."""
    playground_models(host)
    return picture_book_models(host)


def playground_models(host: Host) -> Path:
    """A models folder in the cache that holds the playground, in noise and in flow form, with its judge and the edit that
    was made on it (see `testbed.ready_edit`), built if it is missing or from other sources.

    All parts are put in place by a rename, so that a stopped build leaves nothing that looks finished.
    """
    parts = [CHECKPOINT, FLOW, JUDGE, *_ready(EDIT)]
    return _current(built_files(), _sources(), lambda models: build_into(models, host, parts))


def picture_book_models(host: Host) -> Path:
    """The same models folder with the picture book, its judges and the edit that was made on it, built likewise."""
    parts = [BOOK, BOOK_JUDGE, *_ready(BOOK_EDIT)]
    return _current(built_book_files(), _book_sources(), lambda models: build_into(models, host, parts))


def _current(files: Sequence[Path], sources: str, build: Callable[[Path], None]) -> Path:
    """The models folder, built if one of its files is missing or its stamp, the last of the files, tells of other sources."""
    models = cache() / "models"
    stamp = models / files[-1]
    busy = "another process is building a checkpoint, waiting for it"
    with locked(cache() / "playground.lock", lambda: print(busy, flush=True)):
        if not all((models / file).is_file() for file in files) or stamp.read_text(encoding="utf-8") != sources:
            print(f"building the {stamp.stem.replace('_', ' ')} checkpoint", flush=True)
            stamp.unlink(missing_ok=True)
            build(models)
            stamp.write_text(sources, encoding="utf-8")  # last: it says that the build is finished
    return models


def _sources() -> str:
    """A hash of all that the playground is built from, the same in every clone."""
    return _hash_of(path for path in (PACK / "playground").rglob("*") if "picture_book" not in path.parts)


def _book_sources() -> str:
    """The same for the picture book, which shares its layout with the playground."""
    return _hash_of((PACK / "playground").rglob("*"))


def _hash_of(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(files):
        if path.suffix in (".py", ".safetensors", ".json"):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def built_files() -> list[Path]:
    """The files of a finished build of the playground, in its models folder."""
    return [CHECKPOINT, FLOW, JUDGE / "shape" / "config.json", *_ready(EDIT), STAMP]


def built_book_files() -> list[Path]:
    """Those of a finished build of the picture book."""
    return [BOOK, BOOK_JUDGE / "thing" / "config.json", *_ready(BOOK_EDIT), BOOK_STAMP]


def shown_parts() -> list[Path]:
    """What the workflows load, of both worlds."""
    return [CHECKPOINT, JUDGE, BOOK, BOOK_JUDGE, *_ready(EDIT), *_ready(BOOK_EDIT)]


def _ready(edit: Path) -> list[Path]:
    """The edit, if there is one: a world that has just been trained has none yet."""
    return [edit] if _EDITS[edit].is_file() else []


def build_into(models: Path, host: Host, parts: Collection[Path]) -> None:
    """Build `parts` of either world into a models folder, each put in place of what is there by a rename. Raises
    BuildError."""
    with _building(models, parts) as built:
        if {CHECKPOINT, FLOW, JUDGE}.intersection(parts):
            flow = ("--flow", str(built[FLOW])) if FLOW in parts else ()
            _run_builder(host, "playground.build", "--out", str(built[CHECKPOINT]), "--judge", str(built[JUDGE]), *flow)
        if {BOOK, BOOK_JUDGE}.intersection(parts):
            module = "playground.picture_book.build"
            _run_builder(host, module, "--out", str(built[BOOK]), "--judge", str(built[BOOK_JUDGE]))
        for edit in _EDITS.keys() & set(parts):
            shutil.copyfile(_EDITS[edit], built[edit])


@contextmanager
def _building(models: Path, parts: Collection[Path]) -> Iterator[dict[Path, Path]]:
    """Where to write each part (and whatever else is built with it); afterwards `parts` take the place of what was there."""
    models.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=models, prefix=".playground-") as folder:
        built = {part: Path(folder, part.name) for part in (CHECKPOINT, FLOW, JUDGE, BOOK, BOOK_JUDGE, *parts)}
        yield built
        for part in parts:
            (models / part).parent.mkdir(parents=True, exist_ok=True)
            if (models / part).is_dir():
                shutil.rmtree(models / part)
            built[part].replace(models / part)


def _run_builder(host: Host, module: str, *arguments: str) -> None:
    """Write what the arguments name from the repository's weights, in a process of its own."""
    line = [str(host.python), "-m", module, *arguments]
    done = subprocess.run(line, cwd=PACK, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BuildError(f"{module} failed:\n{(done.stdout + done.stderr).strip()[-3000:]}")
