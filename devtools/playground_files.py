"""The playground's checkpoint and judge, expanded from the repository's weights into a models folder."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from .comfyui import PACK, Host
from .errors import ToolError
from .install import cache
from .lock import locked

CHECKPOINT = Path("checkpoints", "playground.safetensors")
JUDGE = Path("concept_judges", "playground")


class BuildError(ToolError):
    """The playground's builder failed; the message is what it said."""


def playground_models(host: Host) -> Path:
    """A models folder in the cache that holds the playground, built if it is missing or older than its sources.

    Both parts are put in place by a rename, so that a stopped build leaves nothing that looks finished.
    """
    models = cache() / "models"
    with locked(cache() / "playground.lock", lambda line: print(line, flush=True)):
        if not _is_current(models):
            print("building the playground checkpoint", flush=True)
            _build(host, models)
    return models


def _is_current(models: Path) -> bool:
    built = models / CHECKPOINT
    sources = [path for path in (PACK / "playground").rglob("*") if path.suffix in (".py", ".safetensors", ".json")]
    if not built.is_file() or not (models / JUDGE).is_dir() or not sources:
        return False
    return built.stat().st_mtime >= max(path.stat().st_mtime for path in sources)


def _build(host: Host, models: Path) -> None:
    checkpoint, judge = models / CHECKPOINT, models / JUDGE
    new_checkpoint = checkpoint.with_name("playground.partial")  # a name that no loader lists
    new_judge = models / "playground-judge.partial"
    for folder in (checkpoint.parent, judge.parent):
        folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(new_judge, ignore_errors=True)
    line = [str(host.python), "-m", "playground.build", "--out", str(new_checkpoint), "--judge", str(new_judge)]
    done = subprocess.run(line, cwd=PACK, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BuildError(f"playground.build failed:\n{(done.stdout + done.stderr).strip()[-3000:]}")
    shutil.rmtree(judge, ignore_errors=True)
    new_judge.rename(judge)
    new_checkpoint.replace(checkpoint)  # last: its date is what says that the build is finished
