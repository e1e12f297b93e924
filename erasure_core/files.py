"""Files of tensors: written in one step, checked when read."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

ADVICE = {
    errno.ENOSPC: "Free some space or choose another folder",
    errno.ENAMETOOLONG: "Give a shorter file name",
    errno.EACCES: "Allow writing to the folder or choose another",
}


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
        with suppress(OSError):  # a name that cannot be written cannot be removed either
            part.unlink()
        advice = ADVICE.get(error.errno, "Choose another folder")
        raise OSError(
            error.errno,
            f"could not save {path} ({len(blob) / 1e6:.1f} MB needed): {error.strerror or error}. "
            f"{advice}; nothing was overwritten",
        ) from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a `.safetensors` file. Raises ValueError, naming the file, if it is not a complete one."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (a handle is no dict)
            return tensors, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a complete .safetensors file ({error}); save or download it again") from error


def check_version(fields: Mapping[str, Any], known: int) -> None:
    """Raise ValueError if metadata is of a later format version than `known`, KeyError if it names none."""
    version = fields["format_version"]
    if version > known:
        raise ValueError(f"it has format version {version}, this pack reads up to {known}; update the pack")
