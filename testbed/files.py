"""The playground's checkpoint and judge, expanded from the repository's weights into a models folder."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Collection
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


class BuildError(ToolError):
    """The playground's builder failed; the message is its output."""


def playground_models(host: Host) -> Path:
    """A models folder in the cache that holds the playground, in noise and in flow form, with its judge and the edit that
    was made on it (see `testbed.ready_edit`), built if it is missing or from other sources.

    All parts are put in place by a rename, so that a stopped build leaves nothing that looks finished.
    """
    models = cache() / "models"
    busy = "another process is building the playground checkpoint, waiting for it"
    with locked(cache() / "playground.lock", lambda: print(busy, flush=True)):
        if not _is_current(models):
            print("building the playground checkpoint", flush=True)
            (models / STAMP).unlink(missing_ok=True)
            build_into(models, host, [CHECKPOINT, FLOW, JUDGE, *_edit()])
            (models / STAMP).write_text(_sources(), encoding="utf-8")  # last: it says that the build is finished
    return models


def _sources() -> str:
    """A hash of all that the checkpoint is built from, the same in every clone."""
    digest = hashlib.sha256()
    for path in sorted((PACK / "playground").rglob("*")):
        if path.suffix in (".py", ".safetensors", ".json"):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def built_files() -> list[Path]:
    """What is there of a finished build, in its models folder."""
    return [CHECKPOINT, FLOW, JUDGE / "shape" / "config.json", STAMP, *_edit()]


def _edit() -> list[Path]:
    return [EDIT] if EDIT_WEIGHTS.is_file() else []  # a playground that has just been trained has none yet


def _is_current(models: Path) -> bool:
    if not all((models / file).is_file() for file in built_files()):
        return False
    return (models / STAMP).read_text(encoding="utf-8") == _sources()


def build_into(models: Path, host: Host, parts: Collection[Path]) -> None:
    """Build `parts` of the playground into a models folder, each put in place of what is there by a rename. Raises
    BuildError."""
    models.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=models, prefix=".playground-") as folder:
        built = {part: Path(folder, part.name) for part in (CHECKPOINT, FLOW, JUDGE, EDIT)}
        if {CHECKPOINT, FLOW, JUDGE}.intersection(parts):
            flow = ("--flow", str(built[FLOW])) if FLOW in parts else ()
            _run_builder(host, "--out", str(built[CHECKPOINT]), "--judge", str(built[JUDGE]), *flow)
        if EDIT in parts:
            shutil.copyfile(EDIT_WEIGHTS, built[EDIT])

        for part in parts:
            (models / part).parent.mkdir(parents=True, exist_ok=True)
            if (models / part).is_dir():
                shutil.rmtree(models / part)
            built[part].replace(models / part)


def _run_builder(host: Host, *arguments: str) -> None:
    """Write what the arguments name from the repository's weights, in a process of its own."""
    line = [str(host.python), "-m", "playground.build", *arguments]
    done = subprocess.run(line, cwd=PACK, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BuildError(f"playground.build failed:\n{(done.stdout + done.stderr).strip()[-3000:]}")
