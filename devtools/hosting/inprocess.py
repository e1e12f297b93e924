"""Import `comfy` into the running interpreter, as the playground, the tests and the benchmarks need it."""

from __future__ import annotations

import os
import sys

from .comfyui import ensure
from .errors import ToolError

DEVICE_SETTING = "CONCEPT_ERASURE_DEVICE"
"""Environment variable: where tests and benchmarks compute, if not on the CPU."""
FLAGS = {"cpu": ("--cpu",), "cuda": ()}
"""By device, what ComfyUI is started with."""


def load_comfy(device: str | None = None) -> None:
    """Make `comfy` importable, and let it compute on `device`, which is "cpu" or "cuda", by default what `DEVICE_SETTING`
    says; a second call changes nothing. Raises ToolError for another device.

    ComfyUI parses `sys.argv` while `comfy.cli_args` is imported, so the arguments of the calling program are put aside
    for that moment: its own flags would end ComfyUI's parser with an error.
    """
    if "comfy.cli_args" in sys.modules:
        return
    chosen = device or os.environ.get(DEVICE_SETTING) or "cpu"
    if chosen not in FLAGS:
        raise ToolError(f"{DEVICE_SETTING} is {chosen!r}; set it to one of {', '.join(FLAGS)}, or unset it for the CPU")
    sys.path.insert(0, str(ensure().path))
    own_arguments, sys.argv = sys.argv, [sys.argv[0], *FLAGS[chosen]]
    try:
        import comfy.options

        comfy.options.enable_args_parsing()
        import comfy.cli_args
    finally:
        sys.argv = own_arguments
