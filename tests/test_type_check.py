"""The type check is set up in the repository and takes from the machine only where the host lies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from devtools import type_check
from devtools.hosting.comfyui import PACK, Host

ERROR = "def doubled(number: int) -> int:\n    return 2 * number\n\n\ndoubled('two')\n"


def test_the_repository_comes_before_the_host(tmp_path: Path) -> None:
    settings = type_check.configuration(Host(tmp_path, tmp_path / "python", "env"))
    assert settings["extraPaths"] == [str(PACK), str(tmp_path)]
    assert Path(str(settings["extends"])).is_file()


def test_what_is_checked_covers_every_folder_of_code() -> None:
    folders = {path.parent.name for path in PACK.glob("*/__init__.py")} - {"tests", "findings"}
    text = (PACK / "pyproject.toml").read_text(encoding="utf-8").split("[tool.pyright]")[1]
    included = json.loads(text.split("include = ")[1].splitlines()[0])
    assert folders <= set(included), "a folder of code is not checked"


def test_a_wrong_type_is_found(tmp_path: Path, capfd) -> None:
    pytest.importorskip("basedpyright", reason="the type checker is not installed in this host")
    (tmp_path / "wrong.py").write_text(ERROR, encoding="utf-8")
    (tmp_path / "right.py").write_text(ERROR.replace("'two'", "2"), encoding="utf-8")
    assert type_check.main([str(tmp_path / "right.py")]) == 0
    assert type_check.main([str(tmp_path / "wrong.py")]) == 1
    assert "reportArgumentType" in capfd.readouterr().out
