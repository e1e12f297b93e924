"""Build the checkpoints of both small worlds, their judges and a ready edit of each into a ComfyUI's models folder.

    python -m testbed.install_playground --into ComfyUI/models

The pack does this by itself in a clone (see `nodes/playground.py`). What is there stays as it is.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from devtools.hosting import comfyui
from devtools.hosting.errors import ToolError, in_one_line
from devtools.hosting.install import cache
from devtools.hosting.lock import locked

from .files import build_into, shown_parts


def install(host: comfyui.Host, models: Path) -> list[Path]:
    """Put what is missing in place, each by a rename, and return what was put there. Raises BuildError."""
    with locked(cache() / "install-playground.lock", lambda: print("another process builds it, waiting", flush=True)):
        missing = [part for part in shown_parts() if not (models / part).exists()]
        build_into(models, host, missing)
    return [models / part for part in missing]


@in_one_line
def main(argv: Sequence[str] | None = None) -> int:
    """Install; 0, or 1 with the reason on standard error."""
    parser = argparse.ArgumentParser(
        prog="python -m testbed.install_playground", description="Install the small worlds."
    )
    parser.add_argument("--into", type=Path, required=True, metavar="MODELS", help="a ComfyUI's models folder")
    models = parser.parse_args(argv).into
    if not models.is_dir():
        raise ToolError(f"{models} is no folder; name the folder that holds checkpoints/ and loras/")
    for path in install(comfyui.ensure(), models):
        print(path)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
