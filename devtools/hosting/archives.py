"""Unpack what was downloaded. Standard library only."""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path

from .errors import ToolError


def check_hash(archive: Path, sha256: str) -> None:
    """Raise ToolError unless the file is the pinned one."""
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != sha256:
        raise ToolError(f"{archive.name} has SHA-256 {found}, not the pinned {sha256}; not unpacked.")


def unpack(archive: Path, to: Path, under: str = "") -> Path:
    """Unpack a tar archive, or only what lies in the folder `under` of its top folder; returns the folder that came out."""
    with tarfile.open(archive) as tar:
        # The filter keeps modes, owners and places ordinary, where this Python has it.
        if hasattr(tarfile, "data_filter"):
            tar.extraction_filter = tarfile.data_filter
        folder = f"{tar.getnames()[0].partition('/')[0]}/{under}".rstrip("/")
        inside = [member for member in tar.getmembers() if not under or member.name.startswith(f"{folder}/")]
        tar.extractall(to, inside)
    return to / folder
