"""Writing a file in one step."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, blob: bytes) -> None:
    """Write the file beside its final name, then rename it: a full disk or a crash leaves what was at `path` before.

    Raises OSError, naming the path and what to do, if it cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            file.write(blob)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OSError(
            error.errno,
            f"could not save {path} ({len(blob) / 1e6:.1f} MB needed): {error.strerror or error}. "
            f"Free some space or choose another folder; nothing was overwritten",
        ) from error
