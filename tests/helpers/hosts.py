"""A folder in ComfyUI's place."""

from __future__ import annotations

from pathlib import Path

from devtools.hosting.install import COMFYUI_FILES


def make_comfyui(path: Path, main: str = "") -> Path:
    """A folder that passes for a ComfyUI, whose main.py has this text."""
    for name in COMFYUI_FILES:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(main if name == "main.py" else "", encoding="utf-8")
    return path
