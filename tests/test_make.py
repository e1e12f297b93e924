"""The Makefile: every target says what it does, and every command that it runs is there."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = re.findall(r"^([a-z-]+):(?! [A-Z]+ =)(.*)$", TEXT, re.MULTILINE)
OURS = ("devtools", "playground", "testbed", "benchmarks")


def test_every_target_is_phony_and_says_what_it_does() -> None:
    (phony,) = re.findall(r"^\.PHONY: (.*)$", TEXT, re.MULTILINE)
    assert sorted(phony.split()) == sorted(name for name, _ in TARGETS)
    assert [name for name, rest in TARGETS if not re.fullmatch(r" ## \S.*", rest)] == []


@pytest.mark.parametrize("module", sorted(set(re.findall(r"-m ([a-z_.]+)", TEXT))))
def test_every_command_is_there(module: str) -> None:
    if module.split(".")[0] not in OURS:
        assert module in {"ruff", "pytest"}
        return
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None, f"the Makefile runs {module}, which is gone"
    assert '__name__ == "__main__"' in Path(spec.origin).read_text(encoding="utf-8")


def test_the_tests_that_the_makefile_names_are_there() -> None:
    named = re.findall(r"tests/\w+\.py", TEXT)
    assert named and all((ROOT / name).is_file() for name in named)


@pytest.mark.parametrize("workflow", sorted((ROOT / ".github" / "workflows").glob("*.yml")), ids=lambda path: path.stem)
def test_a_workflow_runs_only_targets_and_commands_that_are_there(workflow: Path) -> None:
    text = workflow.read_text(encoding="utf-8")
    assert set(re.findall(r"\bmake ([a-z-]+)", text)) <= {name for name, _ in TARGETS}
    assert all(importlib.util.find_spec(module) for module in re.findall(r"python -m ([a-z_.]+)", text))
