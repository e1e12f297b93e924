"""Ask an interpreter what it can do, always in a process of its own. Standard library only."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

# Run inside the environment: names every package with a missing or cut-off file, as a killed pip leaves behind.
AUDIT = """
import collections, importlib.metadata, os, pathlib
sizes, owner = collections.defaultdict(set), {}
for dist in importlib.metadata.distributions():
    name = dist.metadata["Name"]
    if not name or dist.files is None:
        print(name or dist); continue
    for file in dist.files:
        if file.suffix != ".pyc" and file.size is not None:
            path = str(dist.locate_file(file)); sizes[path].add(file.size); owner[path] = name
print(*sorted({owner[p] for p, s in sizes.items() if not os.path.isfile(p) or os.path.getsize(p) not in s}), sep="\\n")
"""


def venv_python(venv: Path) -> Path:
    """The interpreter inside a virtual environment."""
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def has_packages(venv: Path, names: tuple[str, ...]) -> bool:
    """Whether all these packages lie in an environment: a look at files, fit to be taken before every command."""
    folder = "Lib/site-packages" if os.name == "nt" else "lib/python*/site-packages"
    return all(any(venv.glob(f"{folder}/{name}/__init__.py")) for name in names)


def can_import(python: Path, modules: list[str] | tuple[str, ...]) -> bool:
    """Whether an interpreter really imports all these modules, tried in a process of its own."""
    code = "".join(f"import {name}\n" for name in modules) or "pass"
    try:
        # Away from the repository, whose `nodes` and `tests` must not be found first.
        done = subprocess.run([python, "-c", code], cwd=tempfile.gettempdir(), capture_output=True, check=False)
    except OSError:
        return False
    return done.returncode == 0


def is_isolated(venv: Path) -> bool:
    """Whether the interpreter starts, has pip, and installs into this environment and nowhere else.

    An environment that has lost its pyvenv.cfg still starts, but as the system's Python: its pip would change that.
    """
    code = (
        "import os, pip, sys; sys.exit(sys.prefix == sys.base_prefix or not os.path.samefile(sys.prefix, sys.argv[1]))"
    )
    try:
        line = [venv_python(venv), "-c", code, venv]
        return subprocess.run(line, cwd=tempfile.gettempdir(), capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def unfinished_packages(venv: Path) -> list[str]:
    """The packages of an environment with a missing or cut-off file; empty if all are whole."""
    line = [venv_python(venv), "-c", AUDIT]
    done = subprocess.run(line, cwd=tempfile.gettempdir(), capture_output=True, text=True, check=False)
    return done.stdout.split() if done.returncode == 0 else ["the list of packages"]
