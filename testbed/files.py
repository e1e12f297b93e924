"""The playground's checkpoint and judge, expanded from the repository's weights into a models folder."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
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
            _build(host, models)
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
    edit = [EDIT] if EDIT_WEIGHTS.is_file() else []  # a playground that has just been trained has none yet
    return [CHECKPOINT, FLOW, JUDGE / "shape" / "config.json", STAMP, *edit]


def _is_current(models: Path) -> bool:
    if not all((models / file).is_file() for file in built_files()):
        return False
    return (models / STAMP).read_text(encoding="utf-8") == _sources()


def run_builder(host: Host, checkpoint: Path, judge: Path, *more: str) -> None:
    """Write a checkpoint and a judge from the repository's weights, in a process of its own. Raises BuildError."""
    line = [str(host.python), "-m", "playground.build", "--out", str(checkpoint), "--judge", str(judge), *more]
    done = subprocess.run(line, cwd=PACK, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BuildError(f"playground.build failed:\n{(done.stdout + done.stderr).strip()[-3000:]}")


def _build(host: Host, models: Path) -> None:
    checkpoint, flow, judge = models / CHECKPOINT, models / FLOW, models / JUDGE
    new_checkpoint, new_flow = (
        path.with_suffix(".partial") for path in (checkpoint, flow)
    )  # names that no loader lists
    new_judge = models / "playground-judge.partial"
    for folder in (checkpoint.parent, judge.parent):
        folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(new_judge, ignore_errors=True)
    run_builder(host, new_checkpoint, new_judge, "--flow", str(new_flow))
    (models / STAMP).unlink(missing_ok=True)
    shutil.rmtree(judge, ignore_errors=True)
    new_judge.rename(judge)
    new_flow.replace(flow)
    new_checkpoint.replace(checkpoint)
    if EDIT_WEIGHTS.is_file():
        (models / EDIT).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(EDIT_WEIGHTS, models / EDIT)
    (models / STAMP).write_text(_sources(), encoding="utf-8")  # last: it says that the build is finished
