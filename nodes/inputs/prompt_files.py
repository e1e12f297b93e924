"""Prompt files in ComfyUI's input folder, and the protocol that needs none."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ...erasure_core.evaluation import imagenette
from ...erasure_core.evaluation.prompt_sets import PromptSet, parse_prompt_set
from .. import host

NO_FILE = "none"
TEMPLATES = "a {}\na picture of a {}\na photo of a {} outside"


def available() -> list[str]:
    """The choices: no file, Imagenette's classes, or a CSV file directly in the input folder. A folder that cannot be
    read has none: an error here would cost the host every node of the pack."""
    folder = host.input_folder()
    try:
        found = [path.name for path in folder.iterdir() if path.suffix.casefold() == ".csv" and path.is_file()]
    except FileNotFoundError:
        found = []
    except OSError as error:
        logging.warning("Evaluate Erasure: the input folder cannot be listed: %s", error)
        found = []
    return [NO_FILE, imagenette.NAME, *sorted(found)]


def read(name: str | None, targets: Sequence[str]) -> PromptSet:
    """The prompts of what is chosen; none for `NO_FILE`. Raises ValueError if there is no such file in the input folder, and
    what `parse_prompt_set` and `imagenette` raise."""
    if not name or name == NO_FILE:
        return PromptSet(())
    if name == imagenette.NAME:
        return imagenette.imagenette(targets)
    if name not in available():
        raise ValueError(f"there is no prompt file {name!r} in ComfyUI's input folder; put it there, then press R")
    return parse_prompt_set((host.input_folder() / name).read_bytes(), name, targets)


def state(name: str | None) -> str:
    """Changes when the file does, so that the node runs again."""
    if name in (None, "", NO_FILE, imagenette.NAME) or name not in available():
        return ""
    status = (host.input_folder() / name).stat()
    return f"{status.st_mtime_ns} {status.st_size}"
