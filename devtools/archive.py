"""Build the archive that the ComfyUI Registry publishes, with the registry's own tool.

    python -m devtools.archive FILE.zip
    python -m devtools.archive --changelog FILE.md    what CHANGELOG.md says of the version in pyproject.toml

comfy-cli is installed, pinned, into an environment of its own in the cache: it is needed for nothing else, and its
requirements shall not meet ComfyUI's. It sends no telemetry from here.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path

from .hosting.comfyui import PACK
from .hosting.errors import ToolError, in_one_line
from .hosting.install import cache
from .hosting.interpreter import venv_python
from .hosting.lock import locked

COMFY_CLI = "comfy-cli==1.23.0"
ZIP = "node.zip"
"""The name that comfy-cli gives its archive."""


def build(target: Path, pack: Path = PACK) -> Path:
    """Write the archive of the tracked files of `pack`, as they are in the working tree, to `target`, and return it.

    The pack's own folder is not written to. Raises ToolError with what the tool printed if it fails.
    """
    comfy = _comfy_cli()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "pack")
        for name in _tracked(pack):
            place = copy / name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(pack / name, place)
        _run(["git", "init", "--quiet"], copy)
        # comfy-cli packs what git tracks; an ignored file that is tracked all the same has to be forced
        _run(["git", "add", "--all", "--force"], copy)
        quiet = {"DO_NOT_TRACK": "1", "HOME": folder, "XDG_CONFIG_HOME": folder}
        _run([str(comfy), "--skip-prompt", "--no-enable-telemetry", "node", "pack"], copy, quiet)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(copy / ZIP, target)
    return target


def changes(pack: Path = PACK) -> str:
    """The entry in CHANGELOG.md for the version that pyproject.toml names. Raises ToolError if there is none."""
    (version,) = re.findall(r'^version = "(.+)"$', (pack / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    log = (pack / "CHANGELOG.md").read_text(encoding="utf-8")
    section = re.search(rf"^## \[{re.escape(version)}\].*\n((?:(?!## ).*\n?)*)", log, re.MULTILINE)
    if section is None or not section[1].strip():
        raise ToolError(
            f"CHANGELOG.md says nothing of version {version}: give '## [Unreleased]' that number and a date"
        )
    return section[1].strip() + "\n"


def _tracked(pack: Path) -> list[str]:
    """The files that git tracks and that are still there."""
    names = _run(["git", "ls-files", "-z"], pack).split("\0")
    return [name for name in names if name and (pack / name).is_file()]


def _comfy_cli() -> Path:
    """The tool, installed on first use; an environment that was left half made is made anew."""
    folder = cache() / COMFY_CLI.replace("==", "-")
    python = venv_python(folder)
    comfy = python.with_name("comfy" + python.suffix)
    done = folder / "installed"
    with locked(cache() / "comfy-cli.lock", lambda: print("another installation of comfy-cli is under way, waiting")):
        if not done.is_file():
            venv.create(folder, clear=True, with_pip=True)
            _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", COMFY_CLI], folder)
            done.touch()
    return comfy


def _run(command: list[str], folder: Path, more: dict[str, str] | None = None) -> str:
    """The output of a command. Raises ToolError with all of it if the command fails or is not installed."""
    environment = os.environ | (more or {})
    try:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise ToolError(f"{command[0]} is not installed; it is needed to build the archive") from error
    if done.returncode != 0:
        raise ToolError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


@in_one_line
def main(argv: Sequence[str] | None = None) -> int:
    """Build the archive; 0, or 1 with the reason on standard error."""
    parser = argparse.ArgumentParser(prog="python -m devtools.archive", description="The registry's archive.")
    parser.add_argument("file", type=Path, help="where to write it, for example dist/node.zip")
    parser.add_argument("--changelog", action="store_true", help="write the changes of this version in its place")
    args = parser.parse_args(argv)
    if args.changelog:
        args.file.write_text(changes(), encoding="utf-8")
    else:
        build(args.file)
    print(args.file)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
