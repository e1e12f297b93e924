"""A method is one file: in a copy of the pack, and listed by the command, it is in the registry, the node and the tests."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NAME = "dropped_in"
SCHEMA = """
from devtools.hosting.inprocess import load_comfy
from devtools.hosting.pack import load_pack
load_comfy(), load_pack()
from concept_erasure.nodes.inputs.widgets import method_input
option = {option.key: option for option in method_input().options}[%r]
print("WIDGETS", *(entry.id for entry in option.inputs))
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """The pack with one file more: the README's example under another name."""
    pack = tmp_path_factory.mktemp("copy") / "pack"
    ignored = shutil.ignore_patterns(".git", "weights", "workflows", "demo-output", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, pack, ignore=ignored)
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    code = code.replace('name = "ablation"', f'name = "{NAME}"')
    (pack / "erasure_core" / "methods" / f"{NAME}.py").write_text(code, encoding="utf-8")
    run(pack, "-m", "devtools.registries")
    return pack


def run(copy: Path, *arguments: str) -> str:
    """What Python says in the copy; fails the test if it fails."""
    done = subprocess.run([sys.executable, *arguments], cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_is_among_the_choices_of_erase_concept_with_its_settings(copy: Path) -> None:
    widgets = re.search(r"WIDGETS (.*)", run(copy, "-c", SCHEMA % NAME))[1].split()
    assert {"layers", "steps", "learning_rate", "retain_weight"} <= set(widgets)


def test_the_property_tests_run_on_it(copy: Path) -> None:
    said = run(copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_methods.py", "-k", NAME)
    assert int(re.search(r"(\d+) passed", said)[1]) >= 8, said
