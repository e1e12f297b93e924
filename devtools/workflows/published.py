"""The pack's published name, and the sources of the model files that its workflows name.

Standard library only.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable
from pathlib import Path

from ..hosting.comfyui import PACK

ASSETS = Path(__file__).with_name("release_assets.json")
"""The release that carries the small worlds' files, and their hashes; `testbed.release_assets` writes it."""

_HUB = "https://huggingface.co"
_FLUX_TEXT = f"{_HUB}/comfyanonymous/flux_text_encoders/resolve/main"
WELL_KNOWN = {
    "v1-5-pruned-emaonly-fp16.safetensors": (
        "checkpoints",
        f"{_HUB}/Comfy-Org/stable-diffusion-v1-5-archive/resolve/main/v1-5-pruned-emaonly-fp16.safetensors",
    ),
    "sd_xl_base_1.0.safetensors": (
        "checkpoints",
        f"{_HUB}/stabilityai/stable-diffusion-xl-base-1.0/resolve/main/sd_xl_base_1.0.safetensors",
    ),
    "flux1-dev.safetensors": ("diffusion_models", f"{_HUB}/Comfy-Org/flux1-dev/resolve/main/flux1-dev.safetensors"),
    "clip_l.safetensors": ("text_encoders", f"{_FLUX_TEXT}/clip_l.safetensors"),
    "t5xxl_fp16.safetensors": ("text_encoders", f"{_FLUX_TEXT}/t5xxl_fp16.safetensors"),
    "ae.safetensors": (
        "vae",
        f"{_HUB}/Comfy-Org/Lumina_Image_2.0_Repackaged/resolve/main/split_files/vae/ae.safetensors",
    ),
}
"""Public files as ComfyUI's own templates name them: folder and address."""


@functools.cache
def _project(key: str) -> str:
    """A line of pyproject.toml, the one place where name, version and addresses stand."""
    found = re.search(rf'^"?{re.escape(key)}"? = "(.+)"$', (PACK / "pyproject.toml").read_text(encoding="utf-8"), re.M)
    if found is None:
        raise KeyError(f"pyproject.toml has no line {key} = ...")
    return found[1]


def pack_id() -> str:
    """The pack's name in the registry."""
    return _project("name")


def pack_version() -> str:
    """The pack's version."""
    return _project("version")


@functools.cache
def release_assets() -> dict[str, dict]:
    """The published files by name: `directory` below models/, `file` as the release calls it, `hash` (SHA-256)."""
    return json.loads(ASSETS.read_text(encoding="utf-8"))["files"]


def asset_url(name: str) -> str:
    """Where a published file can be fetched."""
    tag = json.loads(ASSETS.read_text(encoding="utf-8"))["tag"]
    return f"{_project('Repository')}/releases/download/{tag}/{release_assets()[name]['file']}"


def models_named(values: Iterable[object]) -> list[dict]:
    """Name, folder and address of the model files among a node's values, so that the browser can offer a missing one."""
    found = []
    for value in values:
        if isinstance(value, str) and value in release_assets():
            asset = release_assets()[value]
            source = {"url": asset_url(value), "hash": asset["hash"], "hash_type": "SHA256"}
            found.append({"name": value} | source | {"directory": asset["directory"]})
        elif isinstance(value, str) and value in WELL_KNOWN:
            directory, url = WELL_KNOWN[value]
            found.append({"name": value, "url": url, "directory": directory})
    return found
