"""Import this pack from its folder, as ComfyUI does: it has no importable name of its own."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

from .comfyui import PACK

NAME = "concept_erasure"


def load_pack() -> ModuleType:
    """Register the pack as the package `concept_erasure`, so that `concept_erasure.erasure_core` can be imported.

    The root folder must not be on `sys.path` for that: its `nodes/` would hide ComfyUI's `nodes.py`.
    """
    if NAME not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            NAME, PACK / "__init__.py", submodule_search_locations=[str(PACK)]
        )
        if spec is None or spec.loader is None:
            raise ImportError(f"{PACK / '__init__.py'} is no Python file; get the repository again")
        module = importlib.util.module_from_spec(spec)
        sys.modules[NAME] = module
        spec.loader.exec_module(module)
    return sys.modules[NAME]
