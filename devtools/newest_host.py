"""`make test-newest`: run the tests in the newest release of ComfyUI, to learn of a change before users do.

    python -m devtools.newest_host [PYTEST ARGUMENT ...]

ComfyUI and its environment go into the cache beside the pinned ones, which stay as they are.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from .hosting import archives, install
from .hosting.comfyui import PACK
from .hosting.errors import ToolError, in_one_line

REPOSITORY = "https://github.com/comfyanonymous/ComfyUI"
SECONDS = 60


def newest_release() -> str:
    """The tag of the newest release: the page of the latest one leads to its own. Raises ToolError without a release."""
    with urllib.request.urlopen(f"{REPOSITORY}/releases/latest", timeout=SECONDS) as page:
        before, _, tag = page.url.rpartition("/")
    if not before.endswith("/releases/tag"):
        raise ToolError(f"{REPOSITORY}/releases/latest leads to {page.url}, not to a release; look there by hand")
    return tag


def downloaded(tag: str) -> Path:
    """The folder of a release in the cache, put there by a rename if it is missing. Raises ToolError if it is no ComfyUI."""
    place = install.cache() / f"newest-ComfyUI-{tag}"
    if install.is_comfyui(place):
        return place
    shutil.rmtree(place, ignore_errors=True)
    install.cache().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=install.cache(), prefix="unpack-") as folder:
        archive = Path(folder, "release.tar.gz")
        address = f"{REPOSITORY}/archive/refs/tags/{tag}.tar.gz"
        with urllib.request.urlopen(address, timeout=SECONDS) as answer, archive.open("wb") as file:
            shutil.copyfileobj(answer, file)
        unpacked = archives.unpack(archive, Path(folder))
        if not install.is_comfyui(unpacked):
            raise ToolError(f"{address} holds no ComfyUI (it has {', '.join(install.COMFYUI_FILES)})")
        unpacked.rename(place)
    return place


@in_one_line
def main(argv: Sequence[str] | None = None) -> int:
    """Run the tests but the slow ones; pytest's exit code, or 1 with the reason if there is nothing to run them in."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    tag = newest_release()
    print(f"the newest ComfyUI is {tag}, the pinned one {install.COMFYUI_VERSION}", flush=True)
    comfyui = downloaded(tag)
    venv = install.venv_for(comfyui)
    install.ensure_venv(venv, comfyui)
    python = str(install.venv_python(venv))
    host = {"COMFYUI_PATH": str(comfyui), "COMFYUI_PYTHON": python}
    line = [python, "-m", "pytest", "-rs", "-m", "not slow", *arguments]
    return subprocess.run(line, cwd=PACK, env=os.environ | host, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())
