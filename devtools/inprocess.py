"""Import `comfy` into the running interpreter, as the playground, the tests and the benchmarks need it."""

from __future__ import annotations

import sys

from .comfyui import ensure


def load_comfy(device_flag: str = "--cpu") -> None:
    """Make `comfy` importable and configured by `device_flag`; a second call changes nothing.

    ComfyUI parses `sys.argv` while `comfy.cli_args` is imported, so the arguments of the calling program are put aside
    for that moment: its own flags would end ComfyUI's parser with an error.
    """
    if "comfy.cli_args" in sys.modules:
        return
    sys.path.insert(0, str(ensure().path))
    own_arguments, sys.argv = sys.argv, [sys.argv[0], device_flag]
    try:
        import comfy.options

        comfy.options.enable_args_parsing()
        import comfy.cli_args
    finally:
        sys.argv = own_arguments
