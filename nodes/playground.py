"""In a clone of the repository: build the files that the playground's templates load, once, in the background."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

from . import host

PACK = Path(__file__).resolve().parent.parent
WEIGHTS = PACK / "playground" / "weights" / "unet.safetensors"
CHECKPOINT = "playground.safetensors"
SWITCH = "CONCEPT_ERASURE_PLAYGROUND"
"""Environment variable: "0" builds nothing."""
_LOGGED = 500
"""Characters of a failed build's output that go into the log."""


def build_if_missing() -> threading.Thread | None:
    """Start the build if the weights lie beside the pack, as in a clone, and no checkpoint folder has the checkpoint.

    Returns at once, with the thread that waits for it, or None; the host starts in any case, and its log says what is done.
    The build is a process of its own on the CPU. Files that are there are never replaced.
    """
    if os.environ.get(SWITCH) == "0" or not WEIGHTS.is_file() or CHECKPOINT in host.file_names("checkpoints"):
        return None
    models = host.models_folder()
    logging.info(
        "Concept Erasure: building %s for the templates into %s, in the background; %s=0 turns this off",
        CHECKPOINT, models, SWITCH,
    )  # fmt: skip
    waiting = threading.Thread(target=_build, args=(models,), name="concept-erasure-playground", daemon=True)
    waiting.start()
    return waiting


def _build(models: Path) -> None:
    line = [sys.executable, "-m", "testbed.install_playground", "--into", str(models)]
    environment = os.environ | {"COMFYUI_PATH": str(host.comfyui_folder()), "COMFYUI_PYTHON": sys.executable}
    try:
        done = subprocess.run(
            line, cwd=PACK, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
    except OSError as error:
        logging.warning("Concept Erasure: %s was not built: %s", CHECKPOINT, error)
        return
    if done.returncode == 0:
        logging.info("Concept Erasure: %s is ready in %s; press R in the browser", CHECKPOINT, models)
    else:
        output = (done.stdout + done.stderr).strip()[-_LOGGED:]
        logging.warning("Concept Erasure: %s was not built; it can be downloaded instead. %s", CHECKPOINT, output)
