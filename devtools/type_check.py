"""Check the types of everything outside the tests, with ComfyUI's own sources in sight.

    python -m devtools.type_check [FILE ...]

What is checked and how strictly stands in `pyproject.toml`; this adds only where the host lies on this machine. Works
offline: the checker's package carries all that it runs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .hosting.comfyui import PACK, Host, ensure
from .hosting.errors import in_one_line


def configuration(host: Host) -> dict[str, object]:
    """The settings of `pyproject.toml`, and where imports are looked up: the repository before the host, for both have a
    `nodes`."""
    return {"extends": str(PACK / "pyproject.toml"), "extraPaths": [str(PACK), str(host.path)]}


def check(host: Host, files: list[str]) -> int:
    """Check `files`, or without any everything that `pyproject.toml` includes; the checker's exit code, 0 if all is well."""
    with tempfile.TemporaryDirectory(prefix="concept-erasure-") as folder:
        settings = configuration(host) | ({"include": [str(Path(file).resolve()) for file in files]} if files else {})
        config = Path(folder, "pyrightconfig.json")
        config.write_text(json.dumps(settings), encoding="utf-8")
        line = [str(host.python), "-m", "basedpyright", "--project", str(config), "--pythonpath", str(host.python)]
        return subprocess.run(line, cwd=PACK, check=False).returncode


@in_one_line
def main(argv: Sequence[str] | None = None) -> int:
    """Check and print every error with its place; 0 if there is none."""
    parser = argparse.ArgumentParser(prog="python -m devtools.type_check", description="Check the types.")
    parser.add_argument("files", nargs="*", metavar="FILE", help="only these; default: what pyproject.toml includes")
    return check(ensure(dev=True), parser.parse_args(argv).files)


if __name__ == "__main__":
    raise SystemExit(main())
