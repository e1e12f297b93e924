"""The playground's checkpoint and judge, expanded from the repository's weights into a models folder."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
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
BOOK_STAMP = Path("picture_book.stamp")


class BuildError(ToolError):
    """The playground's builder failed; the message is what it said."""


def playground_models(host: Host) -> Path:
    """A models folder in the cache that holds the playground, in noise and in flow form, with its judge and the edit that
    was made on it (see `testbed.ready_edit`), built if it is missing or from other sources.

    All parts are put in place by a rename, so that a stopped build leaves nothing that looks finished.
    """
    return _current(built_files(), STAMP, _sources(), lambda models: _build(host, models))


def picture_book_models(host: Host) -> Path:
    """The same models folder with the picture book and its judges in it, built if they are missing or from other sources."""
    return _current(
        [BOOK, BOOK_JUDGE / "thing" / "config.json"], BOOK_STAMP, _book_sources(), lambda m: _build_book(host, m)
    )


def _current(files: Sequence[Path], stamp: Path, sources: str, build: Callable[[Path], None]) -> Path:
    """The models folder, built if a file is missing or its stamp tells of other sources; the stamp is written last."""
    models = cache() / "models"
    busy = "another process is building the playground checkpoint, waiting for it"
    with locked(cache() / "playground.lock", lambda: print(busy, flush=True)):
        if not _is_built(models, files, stamp, sources):
            print(f"building the {stamp.stem.replace('_', ' ')} checkpoint", flush=True)
            (models / stamp).unlink(missing_ok=True)
            build(models)
            (models / stamp).write_text(sources, encoding="utf-8")
    return models


def _is_built(models: Path, files: Sequence[Path], stamp: Path, sources: str) -> bool:
    if not all((models / file).is_file() for file in (*files, stamp)):
        return False
    return (models / stamp).read_text(encoding="utf-8") == sources


def _sources() -> str:
    """A hash of all that the playground is built from, the same in every clone."""
    files = (PACK / "playground").rglob("*")
    return _hash_of(file for file in files if "picture_book" not in file.parts)


def _book_sources() -> str:
    """The same for the picture book, which shares text encoder and layout with the playground."""
    return _hash_of((PACK / "playground").rglob("*"))


def _hash_of(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(files):
        if path.suffix in (".py", ".safetensors", ".json"):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def built_files() -> list[Path]:
    """What is there of a finished build of the playground, in its models folder."""
    edit = [EDIT] if EDIT_WEIGHTS.is_file() else []  # a playground that has just been trained has none yet
    return [CHECKPOINT, FLOW, JUDGE / "shape" / "config.json", STAMP, *edit]


def run_builder(host: Host, checkpoint: Path, judge: Path, *more: str, module: str = "playground.build") -> None:
    """Write a checkpoint and a judge from the repository's weights, in a process of its own. Raises BuildError."""
    line = [str(host.python), "-m", module, "--out", str(checkpoint), "--judge", str(judge), *more]
    done = subprocess.run(line, cwd=PACK, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BuildError(f"{module} failed:\n{(done.stdout + done.stderr).strip()[-3000:]}")


def _build(host: Host, models: Path) -> None:
    flow = models / FLOW
    new_flow = flow.with_suffix(".partial")
    _put_in_place(models, CHECKPOINT, JUDGE, lambda *new: run_builder(host, *new, "--flow", str(new_flow)))
    new_flow.replace(flow)
    if EDIT_WEIGHTS.is_file():
        (models / EDIT).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(EDIT_WEIGHTS, models / EDIT)


def _build_book(host: Host, models: Path) -> None:
    module = "playground.picture_book.build"
    _put_in_place(models, BOOK, BOOK_JUDGE, lambda *new: run_builder(host, *new, module=module))


def _put_in_place(models: Path, checkpoint: Path, judge: Path, build: Callable[[Path, Path], None]) -> None:
    """Build a checkpoint and its judge under names that no loader lists, and rename them."""
    for folder in (checkpoint.parent, judge.parent):
        (models / folder).mkdir(parents=True, exist_ok=True)
    new_checkpoint, new_judge = (models / checkpoint).with_suffix(".partial"), models / f"{judge.name}-judge.partial"
    shutil.rmtree(new_judge, ignore_errors=True)
    build(new_checkpoint, new_judge)
    shutil.rmtree(models / judge, ignore_errors=True)
    new_judge.rename(models / judge)
    new_checkpoint.replace(models / checkpoint)
