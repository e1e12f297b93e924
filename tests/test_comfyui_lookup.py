"""Where the host is looked for, and the lock that keeps two installations apart."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from erasure_tests.hosts import make_comfyui

from devtools.hosting import comfyui, install
from devtools.hosting.lock import locked


class Busy(Exception):
    """Somebody else holds the lock."""


def raise_busy() -> None:
    """For `locked`: do not wait."""
    raise Busy


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache, nothing named, the pack outside of any ComfyUI, and no interpreter that has what it takes."""
    monkeypatch.setenv("CONCEPT_ERASURE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    monkeypatch.delenv("COMFYUI_PYTHON", raising=False)
    monkeypatch.setattr(comfyui, "__file__", str(tmp_path / "elsewhere" / "devtools" / "hosting" / "comfyui.py"))
    monkeypatch.setattr(comfyui, "PACK", tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setattr(install, "can_import", lambda python, modules: False)


def make_file(path: Path) -> Path:
    """An empty file with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_the_named_comfyui_comes_before_the_surrounding_before_the_pinned(tmp_path: Path, monkeypatch) -> None:
    pinned = comfyui.locate()
    assert pinned.kind == "pinned" and pinned.path == install.pinned_path() and tmp_path in pinned.python.parents
    around = make_comfyui(tmp_path / "around")
    (around / "custom_nodes").mkdir()
    link = around / "custom_nodes" / "pack"
    link.symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    monkeypatch.setenv("PWD", str(link))  # where the shell says it is
    surrounding = comfyui.locate()
    assert surrounding.kind == "surrounding" and surrounding.path == around
    named = make_comfyui(tmp_path / "named")
    monkeypatch.setenv("COMFYUI_PATH", str(named))
    assert (comfyui.locate().kind, comfyui.locate().path) == ("env", named)


def test_a_pack_in_custom_nodes_is_seen_without_a_link(tmp_path: Path, monkeypatch) -> None:
    around = make_comfyui(tmp_path / "around")
    pack = around / "custom_nodes" / "pack"
    pack.mkdir(parents=True)
    monkeypatch.setattr(comfyui, "PACK", pack)
    assert comfyui.locate().path == around
    (around / "comfy" / "sd.py").unlink()
    assert comfyui.locate().kind == "pinned", "a custom_nodes folder alone is no ComfyUI"


def test_a_wrong_path_is_named_and_nothing_else_is_taken(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path / "empty"))
    with pytest.raises(comfyui.HostError, match=f"COMFYUI_PATH is '{tmp_path / 'empty'}'"):
        comfyui.locate()
    monkeypatch.setenv("COMFYUI_PATH", str(make_comfyui(tmp_path / "named")))
    monkeypatch.setenv("COMFYUI_PYTHON", str(tmp_path / "no-python"))
    with pytest.raises(comfyui.HostError, match=f"COMFYUI_PYTHON is '{tmp_path / 'no-python'}'"):
        comfyui.locate()


def test_the_interpreter_is_the_named_one_then_comfyuis_own_then_this_one_then_ours(
    tmp_path: Path, monkeypatch
) -> None:
    named = make_comfyui(tmp_path / "named")
    monkeypatch.setenv("COMFYUI_PATH", str(named))
    assert comfyui.locate().python == install.venv_python(install.venv_for(named))
    here = (Path(sys.executable), ["torch"])
    monkeypatch.setattr(install, "can_import", lambda python, modules: (python, modules) == here)
    assert comfyui.locate().python == here[0]
    for folder in (".venv", "venv"):
        python = make_file(install.venv_python(named / folder))
        assert comfyui.locate().python == python
    monkeypatch.setenv("COMFYUI_PYTHON", str(make_file(tmp_path / "python")))
    assert comfyui.locate().python == tmp_path / "python"


def test_only_our_own_environment_is_ever_installed_into(tmp_path: Path, monkeypatch) -> None:
    named = make_comfyui(tmp_path / "named")
    monkeypatch.setenv("COMFYUI_PATH", str(named))
    asked = []
    monkeypatch.setattr(install, "ensure_venv", lambda venv, comfyui: asked.append((venv, comfyui)))
    comfyui.ensure()
    assert asked == [(install.venv_for(named), named)]
    make_file(install.venv_python(named / "venv"))
    comfyui.ensure()
    assert len(asked) == 1
    said = (
        r"cannot import pytest, pytest-xdist, ruff, basedpyright.*-m pip install pytest pytest-xdist ruff basedpyright"
    )
    with pytest.raises(comfyui.HostError, match=said):
        comfyui.ensure(dev=True)


def test_the_command_prints_what_was_asked_for_or_one_line_of_error(tmp_path: Path, monkeypatch, capsys) -> None:
    named = make_comfyui(tmp_path / "named")
    monkeypatch.setenv("COMFYUI_PATH", str(named))
    monkeypatch.setenv("COMFYUI_PYTHON", sys.executable)
    outputs = []
    for arguments in ([], ["--python"], ["--path"]):
        assert comfyui.main(arguments) == 0
        outputs.append(capsys.readouterr().out.split())
    assert outputs == [[sys.executable, str(named)], [sys.executable], [str(named)]]
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    assert comfyui.main([]) == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("error: COMFYUI_PATH is ")


# Holds the lock and starts a child that shares it, as the installer's pip does; both end with their standard input.
HOLDER = """
import pathlib, subprocess, sys
from devtools.hosting.lock import locked
with locked(pathlib.Path(sys.argv[1]), sys.exit):
    child = [sys.executable, "-c", "input()"]
    if sys.argv[2:]:
        subprocess.Popen(child, close_fds=False)
    print("held", flush=True)
    input()
"""


def holder(path: Path, *arguments: str) -> subprocess.Popen:
    """Another process that holds the lock on a file."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path), *arguments],
        cwd=Path(install.__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_a_lock_is_waited_for_and_freed_when_its_holder_dies(tmp_path: Path) -> None:
    told = []
    with holder(tmp_path / "lock") as first:
        with pytest.raises(Busy), locked(tmp_path / "lock", raise_busy):
            pytest.fail("two hold the lock")

        def kill() -> None:
            told.append(first.poll())
            first.kill()

        with locked(tmp_path / "lock", kill):
            assert told == [None] and first.wait() == -signal.SIGKILL


def test_a_child_of_a_killed_holder_keeps_others_out(tmp_path: Path) -> None:
    told = []
    with holder(tmp_path / "lock", "with a child") as first:
        first.kill()
        first.wait()
        with pytest.raises(Busy), locked(tmp_path / "lock", raise_busy):
            pytest.fail("the child is still writing")

        def end_child() -> None:
            told.append("busy")
            first.stdin.close()

        with locked(tmp_path / "lock", end_child):
            assert told == ["busy"]
