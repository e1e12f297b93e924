"""In a clone of the repository: build the files that the small worlds' templates load, once, in the background."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

from . import host

PACK = Path(__file__).resolve().parent.parent
CHECKPOINTS = {
    "playground.safetensors": PACK / "playground" / "weights" / "unet.safetensors",
    "picture_book.safetensors": PACK / "playground" / "picture_book" / "weights" / "unet.safetensors",
}
"""By its name, one of the weights that a clone builds a checkpoint from."""
SWITCH = "CONCEPT_ERASURE_PLAYGROUND"
"""Environment variable: "0" builds nothing."""
_LOGGED = 500
"""Characters of a failed build's output that go into the log."""


def build_if_missing() -> threading.Thread | None:
    """Start the build if the weights lie beside the pack, as in a clone, and no checkpoint folder has one of the checkpoints.

    Returns at once, with the thread that waits for it, or None; the host starts in any case, and its log says what is done.
    The build is a process of its own on the CPU. Files that are there are never replaced.
    """
    there = host.file_names("checkpoints")
    missing = [name for name, weights in CHECKPOINTS.items() if weights.is_file() and name not in there]
    if os.environ.get(SWITCH) == "0" or not missing:
        return None
    models, names = host.models_folder(), " and ".join(missing)
    logging.info(
        "Concept Erasure: building %s for the templates into %s, in the background; %s=0 turns this off",
        names, models, SWITCH,
    )  # fmt: skip
    waiting = threading.Thread(target=_build, args=(models, names), name="concept-erasure-playground", daemon=True)
    waiting.start()
    return waiting


def _build(models: Path, names: str) -> None:
    line = [sys.executable, "-m", "testbed.install_playground", "--into", str(models)]
    environment = os.environ | {"COMFYUI_PATH": str(host.comfyui_folder()), "COMFYUI_PYTHON": sys.executable}
    try:
        done = subprocess.run(
            line, cwd=PACK, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
    except OSError as error:
        logging.warning("Concept Erasure: %s not built: %s", names, error)
        return
    if done.returncode == 0:
        logging.info("Concept Erasure: %s ready in %s; press R in the browser", names, models)
    else:
        output = (done.stdout + done.stderr).strip()[-_LOGGED:]
        logging.warning("Concept Erasure: %s not built; the workflows' notes have downloads. %s", names, output)
