"""Find the ComfyUI that hosts this pack, or install the pinned one. Standard library only.

The order is `$COMFYUI_PATH`, the ComfyUI whose `custom_nodes/` holds this pack, then the pinned release in a cache
outside the repository. Demo, tests and benchmarks all ask here, so they always agree on the host.

    python -m devtools.hosting.comfyui             two lines: the interpreter, then the ComfyUI folder
    python -m devtools.hosting.comfyui --python    only the interpreter
    python -m devtools.hosting.comfyui --path      only the ComfyUI folder

Standard output carries nothing else; progress goes to standard error.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from . import install
from .errors import ToolError

PACK = Path(__file__).resolve().parents[2]


class HostError(ToolError):
    """No usable host; the message names the value at fault and what to do next."""


@dataclass(frozen=True)
class Host:
    """A ComfyUI folder and the interpreter that runs it; `kind` is "env", "surrounding" or "pinned"."""

    path: Path
    python: Path
    kind: str


def locate() -> Host:
    """The host in look-up order. Installs nothing; what a "pinned" host names may not be there yet."""
    named = os.environ.get("COMFYUI_PATH")
    if named:
        path = Path(named).expanduser().absolute()
        if not install.is_comfyui(path):
            raise HostError(
                f"COMFYUI_PATH is {named!r}, but there is no ComfyUI in it (it has {', '.join(install.COMFYUI_FILES)}). "
                "Point it to a ComfyUI folder, or unset it to use the pinned release."
            )
        return Host(path, _python_of(path), "env")
    for pack in _as_seen():
        around = pack.parent.parent
        if pack.parent.name == "custom_nodes" and install.is_comfyui(around):
            return Host(around, _python_of(around), "surrounding")
    return Host(install.pinned_path(), install.venv_python(install.pinned_venv()), "pinned")


def ensure(dev: bool = False) -> Host:
    """The host, installed if need be and seen to import what ComfyUI imports. `dev` also asks for what the tests need.

    Only this project's own cache is ever written to; somebody else's ComfyUI is never changed.
    """
    host = locate()
    if host.kind == "pinned":
        install.ensure_pinned()
    elif host.python == install.venv_python(install.venv_for(host.path)):
        install.ensure_venv(install.venv_for(host.path), host.path)
    if dev:
        _require_dev_tools(host)
    return host


def _as_seen() -> list[Path]:
    """The pack's folder under every name it is reached by: a symlink in custom_nodes/ has its host around the link."""
    names = [Path(os.path.abspath(__file__)).parents[2], PACK]
    shell = Path(os.environ.get("PWD", "."))  # the working directory with its links; Python only knows it without
    return [shell, *names] if shell.is_absolute() and shell.exists() and shell.samefile(PACK) else names


def _python_of(comfyui: Path) -> Path:
    """The interpreter of a ComfyUI that we did not install."""
    named = os.environ.get("COMFYUI_PYTHON")
    if named:
        python = Path(named).expanduser().absolute()
        if not python.is_file():
            raise HostError(
                f"COMFYUI_PYTHON is {named!r}, which is not a file. Name the interpreter that starts your ComfyUI."
            )
        return python
    embedded = comfyui.parent / "python_embeded" / "python.exe"
    for python in (install.venv_python(comfyui / "venv"), install.venv_python(comfyui / ".venv"), embedded):
        if python.is_file():
            return python
    here = Path(sys.executable)
    if install.can_import(here, ["torch"]):
        return here
    return install.venv_python(install.venv_for(comfyui))


def _require_dev_tools(host: Host) -> None:
    """Raise with the command to type if the tests could not run in this host."""
    missing = [name for name, module in install.DEV_TOOLS.items() if not install.can_import(host.python, [module])]
    if missing:
        raise HostError(
            f"{host.python} cannot import {', '.join(missing)}. "
            f"Install: {host.python} -m pip install {' '.join(missing)}. "
            "Or unset COMFYUI_PATH to use the pinned host, which has them."
        )


def main(argv: list[str] | None = None) -> int:
    """Print where the host is, after installing it if need be. 0, or 1 with the reason on standard error."""
    parser = argparse.ArgumentParser(prog="python -m devtools.hosting.comfyui", description="Find or install ComfyUI.")
    parser.add_argument("--python", action="store_true", help="print only the interpreter")
    parser.add_argument("--path", action="store_true", help="print only the ComfyUI folder")
    parser.add_argument("--dev", action="store_true", help="fail unless what the tests need is there too")
    args = parser.parse_args(argv)
    try:
        host = ensure(dev=args.dev)
    except (ToolError, OSError, subprocess.SubprocessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the next run goes on from here", file=sys.stderr)
        return 1
    if args.python or not args.path:
        print(host.python)
    if args.path or not args.python:
        print(host.path)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
