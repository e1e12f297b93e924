"""Make the pack importable as `concept_erasure`, and the helpers beside the tests as `erasure_tests`."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

_HERE = Path(__file__).parent


def _register(name: str, folder: Path) -> None:
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


for package in ("devtools", "playground", "benchmarks"):
    if (_HERE.parent / package / "__init__.py").exists():
        _register(package, _HERE.parent / package)
_register("erasure_tests", _HERE / "helpers")

from devtools.pack import load_pack  # noqa: E402

load_pack()
