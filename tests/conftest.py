"""Make the pack importable as `concept_erasure`, and the helpers beside the tests as `erasure_tests`."""

from __future__ import annotations

import importlib.util
import os
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


for package in ("devtools", "playground", "testbed", "benchmarks"):
    if (_HERE.parent / package / "__init__.py").exists():
        _register(package, _HERE.parent / package)
_register("erasure_tests", _HERE / "helpers")

from devtools.hosting.pack import load_pack  # noqa: E402

load_pack()


from collections.abc import Iterator  # noqa: E402
from typing import Any  # noqa: E402

import pytest  # noqa: E402


@pytest.fixture(scope="session", autouse=True)
def cache_of_encoded_text(tmp_path_factory) -> None:
    """The tests share what they encode, and neither read nor fill the user's own cache."""
    os.environ["CONCEPT_ERASURE_TEXT_CACHE"] = str(tmp_path_factory.mktemp("encoded_text"))


@pytest.fixture(scope="module")
def testbed() -> Any:
    """The playground, a `testbed.playground.Playground`. Loaded once a file: ComfyUI's trainer leaves its weight
    wrappers on the module that all clones share, and the next file shall not meet them."""
    from testbed.playground import load_playground

    return load_playground()


@pytest.fixture
def as_a_node_runs() -> Iterator[None]:
    """ComfyUI executes nodes under inference mode."""
    import torch

    with torch.inference_mode():
        yield


@pytest.fixture
def few_words(monkeypatch, tmp_path: Path) -> None:
    """Encoding a vocabulary takes most of a short run: a few words are enough for a test."""
    from concept_erasure.erasure_core.text import vocabulary

    for name in vocabulary.VOCABULARIES:
        (tmp_path / f"{name}.txt").write_text("disc\nsquare\nred\ntree\noval\nblue\nhouse\n", encoding="utf-8")
    monkeypatch.setattr(vocabulary, "_FOLDER", tmp_path)


@pytest.fixture(scope="session")
def bench(tmp_path_factory) -> Iterator[Any]:
    """The one server of all tests that need one, an `erasure_tests.server.Bench`. One prompt replaces what the last one
    cached, so that "the same picture again" is really drawn again."""
    from erasure_tests.server import Bench, models

    from devtools.hosting import comfyui
    from devtools.serving import server

    folder, base = models(), tmp_path_factory.mktemp("comfyui")
    options = {"models_directory": folder, "extra_args": ("--cache-classic",)}
    with server.running_server(comfyui.locate(), base, **options) as running:
        yield Bench(running, server.object_info(running))
