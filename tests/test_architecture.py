"""The import directions that keep the seam, read from the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from devtools import architecture

ROOT = Path(__file__).parent.parent
FILES = sorted([*(ROOT / "erasure_core").rglob("*.py"), *(ROOT / "nodes").rglob("*.py"), ROOT / "__init__.py"])
HOST_MODULES = {"comfy", "folder_paths", "server", "execution", "nodes", "comfy_extras", "comfy_execution"}


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(level, dotted name) of every import, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module or ""


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    place = path.relative_to(ROOT).parts
    for level, name in imports(path):
        top = name.split(".")[0]
        assert level or top not in {"erasure_core", "concept_erasure"}, "imports inside the pack are relative"
        if place[0] == "erasure_core":
            assert level or top not in HOST_MODULES | {"comfy_api"}, f"the core imports {name}"
            assert level < len(place), "the core reaches out of itself"
            assert top != "transformers" or place[-1] == "judge.py"
            assert top not in {"nudenet", "onnxruntime"} or place[-1] == "nude_detector.py"
        if place[:2] == ("erasure_core", "methods") and place[-1] != "__init__.py":
            assert level != 1, "a method imports another method"
        if place[0] == "nodes" and place[1] != "host":
            assert level or top not in HOST_MODULES, f"only nodes/host may import {name}"
            assert not (level and name.startswith("host.")), f"{name}: ask the face of nodes/host"


def test_the_entry_point_is_v3_only() -> None:
    text = (ROOT / "__init__.py").read_text(encoding="utf-8")
    assert "comfy_entrypoint" in text and "NODE_CLASS_MAPPINGS" not in text


@pytest.mark.parametrize("folder", list(architecture.ORDER))
def test_no_import_points_up(folder: str) -> None:
    assert not architecture.upward(folder, architecture.import_graph())


def test_the_layout_stays_small_enough_to_be_seen() -> None:
    graph = architecture.import_graph()
    core, nodes = (architecture.rooms_of(folder, graph) for folder in ("erasure_core", "nodes"))
    assert len(core) <= 20 and architecture.floors(nodes) <= 6


def test_lines_are_counted_outside_the_tests(tmp_path: Path) -> None:
    for name in ("__init__.py", "nodes/erase.py", "testbed/demo.py", "tests/test_demo.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("first = 1\nsecond = 2\n", encoding="utf-8")
    assert architecture.lines(tmp_path) == 6


def test_an_import_that_points_up_is_seen(tmp_path: Path) -> None:
    for name, text in {
        "erasure_core/report.py": "",
        "erasure_core/methods/ap.py": "from ..report import Report",
        "erasure_core/text/words.py": "from ..methods import ap",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = architecture.upward("erasure_core", architecture.import_graph(tmp_path))
    assert found == ["erasure_core.text.words -> erasure_core.methods.ap"]
