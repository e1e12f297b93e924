"""Prompt files in ComfyUI's input folder."""

from __future__ import annotations

from collections.abc import Sequence

from ..erasure_core.evaluation.prompt_sets import PromptSet, parse_prompt_set
from . import host

NO_FILE = "none"


def available() -> list[str]:
    """What can be chosen: no file, or a CSV file directly in the input folder."""
    folder = host.input_folder()
    found = folder.iterdir() if folder.is_dir() else ()
    return [NO_FILE, *sorted(path.name for path in found if path.suffix.casefold() == ".csv" and path.is_file())]


def read(name: str | None, targets: Sequence[str]) -> PromptSet:
    """The prompts of a file in the input folder; none for `NO_FILE`. Raises ValueError if there is no such file, and what
    `parse_prompt_set` raises."""
    if not name or name == NO_FILE:
        return PromptSet(())
    if name not in available():
        raise ValueError(f"there is no prompt file {name!r} in ComfyUI's input folder; put it there, then press R")
    return parse_prompt_set((host.input_folder() / name).read_bytes(), name, targets)


def state(name: str | None) -> str:
    """Changes when the file does, so that the node runs again."""
    if not name or name not in available()[1:]:
        return ""
    status = (host.input_folder() / name).stat()
    return f"{status.st_mtime_ns} {status.st_size}"
