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

SERVED = tuple(f"tests/test_{name}.py" for name in ("workflows", "on_a_server", "in_a_browser"))
"""The files whose tests share a server (`bench`) and what ran on it: one worker takes all of them."""
LONGEST = (*SERVED, "tests/test_it_erases.py", "tests/test_families.py", "tests/test_families_drawn.py")
"""What is begun with, so that no worker is still at it when the other has nothing left to do."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the files, not the tests in them."""
    order = {path: place for place, path in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.nodeid.split("::")[0], len(order)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file's tests stay together, as with `--dist loadfile`, and so do those of the files that share a server."""
    from xdist.scheduler import LoadFileScheduling

    if config.option.dist != "loadfile":
        return None

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return SERVED[0] if file in SERVED else file

    config.option.loadscopereorder = False  # which would begin with the files that have most tests
    return Scheduling(config, log)


@pytest.fixture(scope="session", autouse=True)
def cache_of_encoded_text(tmp_path_factory) -> None:
    """All workers share what they encode, and neither read nor fill the user's own cache."""
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    os.environ["CONCEPT_ERASURE_TEXT_CACHE"] = str(folder / "encoded_text")


@pytest.fixture(scope="session")
def playground() -> Any:
    """The playground, a `testbed.playground.Playground`, loaded once a worker; ask for `testbed`."""
    from testbed.idle_layers import skip_idle_layers
    from testbed.playground import load_playground

    loaded = load_playground()
    skip_idle_layers(loaded.clip)
    return loaded


@pytest.fixture(scope="module")
def testbed(playground: Any) -> Any:
    """The playground with its own weights: all clones share one network, and the file before may have left another's in
    it."""
    import torch
    from concept_erasure.nodes import host

    with torch.inference_mode():
        host.use(playground.model)
    return playground


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
