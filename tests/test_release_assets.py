"""What a release carries for those without a clone, and what a clone builds for itself."""

from __future__ import annotations

import json
import logging
import sys
import time
import types
from pathlib import Path

import pytest
from erasure_tests.server import models

from devtools.hosting import comfyui
from devtools.hosting.inprocess import load_comfy
from devtools.serving import server
from devtools.workflows import published
from testbed import files, install_playground, release_assets


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The files, and what is to be recorded of them."""
    folder = tmp_path_factory.mktemp("dist")
    return folder, release_assets.build(models(), folder)


def test_the_files_built_here_are_those_that_the_workflows_name(built):
    release_assets.check(built[1])
    for asset in built[1].values():
        assert release_assets.sha256(built[0] / asset["file"]) == asset["hash"]


def test_another_file_is_refused(built):
    wrong = {**built[1], "playground": {**built[1]["playground"], "hash": "0" * 64}}
    with pytest.raises(release_assets.AssetError, match="playground: not what"):
        release_assets.check(wrong)


def test_a_zip_is_the_same_bytes_whenever_it_is_made(tmp_path):
    for name in ("one", "two"):
        folder = tmp_path / name / "judge"
        (folder / "shape").mkdir(parents=True)
        for file in ("b.json", "a.json") if name == "two" else ("a.json", "b.json"):
            (folder / "shape" / file).write_text(file, encoding="utf-8")
        release_assets.zipped(folder, tmp_path / f"{name}.zip")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()


@pytest.mark.slow
def test_the_checkpoint_is_the_same_bytes_when_it_is_built_anew(tmp_path, built):
    install_playground.install(comfyui.locate(), tmp_path)
    found = release_assets.build(tmp_path, tmp_path / "dist")
    assert found == built[1]


def test_the_version_stands_in_one_place():
    from concept_erasure.erasure_core.erased_unet import PACK_VERSION

    assert published.pack_version() == PACK_VERSION
    assert published.asset_url("playground").startswith("https://github.com/")


def test_a_widget_that_names_no_known_file_has_no_address():
    assert published.models_named(["euler", 7, None, "mine.safetensors"]) == []
    (found,) = published.models_named(["playground.safetensors"])
    assert (
        found["directory"] == "checkpoints"
        and found["hash"] == release_assets.recorded()["files"][found["name"]]["hash"]
    )


@pytest.fixture
def lacking(monkeypatch, tmp_path):
    """A host that has neither checkpoint, in a clone; what would be started is noted instead."""
    load_comfy()
    from concept_erasure.nodes import playground

    started = []

    def run(line, **options):
        started.append((line, options))
        return types.SimpleNamespace(returncode=1, stdout="", stderr="no room")

    monkeypatch.setattr(playground.subprocess, "run", run)
    monkeypatch.setattr(playground.host, "file_names", lambda kind: [])
    monkeypatch.setattr(playground.host, "models_folder", lambda: tmp_path)
    monkeypatch.delenv(playground.SWITCH, raising=False)
    return playground, started


def test_a_clone_builds_the_checkpoint_and_says_so(lacking, tmp_path, caplog):
    playground, started = lacking
    with caplog.at_level(logging.INFO):
        playground.build_if_missing().join()
    ((line, options),) = started
    assert line[:3] == [sys.executable, "-m", "testbed.install_playground"] and line[-1] == str(tmp_path)
    assert options["env"]["COMFYUI_PATH"] and options["cwd"] == comfyui.PACK
    assert "in the background" in caplog.text and "no room" in caplog.text, "it says what it starts, and why it failed"
    assert "building playground.safetensors and picture_book.safetensors" in caplog.text


def test_a_clone_that_lacks_one_checkpoint_builds_that_one(lacking, monkeypatch, caplog):
    playground, started = lacking
    monkeypatch.setattr(playground.host, "file_names", lambda kind: ["playground.safetensors"])
    with caplog.at_level(logging.INFO):
        playground.build_if_missing().join()
    assert len(started) == 1 and "building picture_book.safetensors" in caplog.text


@pytest.mark.parametrize("why", ["switched off", "there already", "no weights", "cannot start"])
def test_nothing_is_built_where_it_should_not_be_and_nothing_breaks(lacking, monkeypatch, tmp_path, why):
    playground, started = lacking
    if why == "switched off":
        monkeypatch.setenv(playground.SWITCH, "0")
    elif why == "there already":
        monkeypatch.setattr(playground.host, "file_names", lambda kind: list(playground.CHECKPOINTS))
    elif why == "no weights":
        monkeypatch.setattr(playground, "CHECKPOINTS", {"playground.safetensors": tmp_path / "none"})
    else:
        monkeypatch.setattr(playground.subprocess, "run", lambda *_, **__: (_ for _ in ()).throw(OSError("no process")))
    waiting = playground.build_if_missing()
    if waiting is not None:
        waiting.join()
    assert started == [] and (waiting is not None) == (why == "cannot start")


def test_what_is_there_is_never_replaced(tmp_path):
    single = (files.CHECKPOINT, files.EDIT, files.BOOK, files.BOOK_EDIT)
    for name in single:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("the user's own", encoding="utf-8")
    for judge in (files.JUDGE, files.BOOK_JUDGE):
        (tmp_path / judge).mkdir(parents=True)
    assert install_playground.install(comfyui.locate(), tmp_path) == []
    assert {(tmp_path / name).read_text(encoding="utf-8") for name in single} == {"the user's own"}


@pytest.mark.slow
def test_a_host_with_a_clone_has_the_checkpoint_soon_after_its_start(monkeypatch, tmp_path):
    monkeypatch.setenv("CONCEPT_ERASURE_PLAYGROUND", "1")
    with server.running_server(comfyui.locate(), tmp_path) as running:
        checkpoints = [tmp_path / "models" / file for file in (files.CHECKPOINT, files.BOOK)]
        deadline = time.monotonic() + 300
        while not all(map(Path.is_file, checkpoints)) and time.monotonic() < deadline:
            time.sleep(1)
        (names, *_) = server.object_info(running, "CheckpointLoaderSimple")["CheckpointLoaderSimple"]["input"][
            "required"
        ]["ckpt_name"]
        assert all(json.dumps(names).count(checkpoint.name) == 1 for checkpoint in checkpoints)
        assert "building playground.safetensors" in running.log.read_text(encoding="utf-8")
