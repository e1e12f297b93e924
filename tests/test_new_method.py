"""What a contributor adds is one small diff: those in the documentation, applied to a copy of the pack, are found and work."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = ("adding_a_method", "adding_an_attack", "adding_a_family", "adding_a_workflow")
SCHEMA = """
from devtools.hosting.inprocess import load_comfy
from devtools.hosting.pack import load_pack
load_comfy(), load_pack()
from concept_erasure.nodes.inputs.widgets import attack_input, method_input
for choice, name in ((method_input(), "ablation"), (attack_input(), "repetition")):
    option = {option.key: option for option in choice.options}[name]
    print(name, *(entry.id for entry in option.inputs))
"""
WORKFLOW = """
import asyncio, json
from devtools.hosting.inprocess import load_comfy
from devtools.hosting.pack import load_pack
load_comfy(), load_pack()
import nodes
from comfy_extras.nodes_preview_any import PreviewAny
from concept_erasure.nodes.extension import ConceptErasure
from devtools import make_workflows
from devtools.workflows.api_prompt import api_prompt
from devtools.workflows.first_steps import circles_into_squares

async def ours():
    extension = ConceptErasure()
    await extension.on_load()
    return await extension.get_node_list()

info = {}
for kind, node in (nodes.NODE_CLASS_MAPPINGS | {"PreviewAny": PreviewAny}).items():
    names = getattr(node, "RETURN_NAMES", node.RETURN_TYPES)
    info[kind] = {"input": node.INPUT_TYPES(), "output": node.RETURN_TYPES, "output_name": names, "python_module": "nodes"}
for node in asyncio.run(ours()):
    info[node.GET_SCHEMA().node_id] = node.GET_NODE_INFO_V1() | {"python_module": "custom_nodes.concept-erasure"}
prompt = api_prompt(circles_into_squares(json.loads(json.dumps(info))), info)
(erase,) = [entry["inputs"] for entry in prompt.values() if entry["class_type"] == "ErasureEraseConcept"]
print(make_workflows.path_of("circles_into_squares").name, "|", erase["concepts"])
"""


def diff_of(page: str) -> str:
    """The one diff in a page of the documentation."""
    (diff,) = re.findall(r"```diff\n(.*?)```", (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8"), re.DOTALL)
    return diff


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """The pack with a method, an attack, a family and a workflow more."""
    pack = tmp_path_factory.mktemp("copy") / "pack"
    ignored = shutil.ignore_patterns(".git", "weights", "demo-output", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, pack, ignore=ignored)
    for page in PAGES:
        done = subprocess.run(
            ["git", "apply", "-"], cwd=pack, input=diff_of(page), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"docs/{page}.md: {done.stderr}"
    run(pack, "-m", "devtools.registries")
    return pack


def run(copy: Path, *arguments: str) -> str:
    """What Python says in the copy; fails the test if it fails."""
    done = subprocess.run([sys.executable, *arguments], cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


TESTED = {
    "test_methods": "ablation and not concept_ablation",
    "test_red_team": "repetition",
    "test_families": "SSD-1B and (detection or closed_form)",
}
"""File -> which of its tests are about what was added."""


@pytest.fixture(scope="module")
def passed(copy: Path) -> Counter[str]:
    """How many of those tests of each file pass in the copy. Fails if one of them does."""
    chosen = " or ".join(f"({file} and {which})" for file, which in TESTED.items())
    files = (f"tests/{file}.py" for file in TESTED)
    said = run(copy, "-m", "pytest", "-q", "-rp", "-p", "no:cacheprovider", *files, "-k", chosen)
    return Counter(re.findall(r"^PASSED tests/(\w+)\.py::", said, re.MULTILINE))


@pytest.mark.parametrize("page", PAGES)
def test_a_diff_has_at_most_40_lines(page: str) -> None:
    assert len(diff_of(page).splitlines()) <= 40


def test_method_and_attack_are_among_the_choices_of_their_nodes_with_their_settings(copy: Path) -> None:
    widgets = {line.split()[0]: set(line.split()[1:]) for line in run(copy, "-c", SCHEMA).splitlines() if line}
    assert {"layers", "steps", "learning_rate", "retain_weight"} <= widgets["ablation"]
    assert widgets["repetition"] == {"times"}


def test_what_was_added_passes_the_tests_of_its_kind(passed: Counter[str]) -> None:
    assert passed["test_methods"] >= 8
    assert passed["test_red_team"] == 2
    assert passed["test_families"] == 2, "detected, and edited by a method"


def test_the_workflow_is_listed_and_fits_the_nodes(copy: Path) -> None:
    name, concepts = run(copy, "-c", WORKFLOW).strip().splitlines()[-1].split(" | ")
    assert name == "18 Playground - circles into squares.json" and concepts == "circle => square"
