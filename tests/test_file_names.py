"""Names of files: placeholders, what no file system takes, and numbers that are never given twice."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import pytest
from concept_erasure.nodes.outputs.file_names import numbered, safe_prefix, seen


def test_the_placeholders_of_comfyuis_own_save_nodes_are_filled_in(monkeypatch) -> None:
    monkeypatch.setattr(time, "localtime", lambda: time.strptime("2031-02-03 04:05:06", "%Y-%m-%d %H:%M:%S"))
    prefix = safe_prefix("%year%-%month%-%day%/%hour%%minute%%second%_%width%x%height%", 640, 512)
    assert prefix == Path("2031-02-03/040506_640x512")
    assert safe_prefix("%unknown%_50%") == Path("%unknown%_50%")


@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        ("CON", "'CON', the name of a device"),
        ("erased/nul.old", "'nul.old', the name of a device"),
        ("Com1/circle", "'Com1', the name of a device"),
        ("circle.", r"ends in '\.'"),
        ("shapes /circle", "ends in ' '"),
        *(
            (f"cir{letter}cle", f"holds '{letter}'".replace("|", r"\|").replace("?", r"\?").replace("*", r"\*"))
            for letter in '<>:"|?*'
        ),
        ("%date:yyyy%", "holds ':'"),
    ],
)
def test_names_that_windows_cannot_take_are_refused(prefix: str, message: str) -> None:
    with pytest.raises(ValueError, match=rf"{message}.*Windows cannot take"):
        safe_prefix(prefix)


def test_plain_names_stay_as_they_are() -> None:
    for prefix in ("erased/concept", "v1.5/van gogh", "컨셉", "console", "lpt10", "a_00001_"):
        assert safe_prefix(f" {prefix} ").as_posix() == prefix


def test_a_number_is_never_given_twice_even_if_its_file_is_gone(tmp_path: Path) -> None:
    """ComfyUI's LoRA loader keeps what it read under a path: another file of that name would not be read."""
    prefix = Path("shapes/circle")

    def save() -> str:
        path = next(numbered(tmp_path, prefix))
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
        seen(path)
        return path.name

    assert [save(), save()] == ["circle_00001_.safetensors", "circle_00002_.safetensors"]
    (tmp_path / "shapes" / "circle_00002_.safetensors").unlink()
    assert save() == "circle_00003_.safetensors"
    listed = tmp_path / "shapes" / "circle_00009_.safetensors"
    seen(listed)  # listed once for the loaders, then deleted
    assert save() == "circle_00010_.safetensors"


def test_other_files_do_not_count(tmp_path: Path) -> None:
    for name in (
        "circle_key_00007_.safetensors",
        "circle_00008_.json",
        "circle_00006.safetensors",
        "circles_00005_.safetensors",
    ):
        (tmp_path / name).write_bytes(b"")
    first, second = itertools.islice(numbered(tmp_path, Path("circle")), 2)
    assert (first.name, second.name) == ("circle_00001_.safetensors", "circle_00002_.safetensors")
    assert next(numbered(tmp_path, Path("circle"), ".json")).name == "circle_00009_.json"


def test_a_report_whose_number_is_taken_gets_the_next_with_all_its_pictures(tmp_path: Path, monkeypatch) -> None:
    """Of two processes that write at once, the other may have written no more than its report yet."""
    from devtools.hosting.inprocess import load_comfy

    load_comfy()
    from concept_erasure.nodes import host
    from concept_erasure.nodes.outputs import evaluation_files
    from PIL import Image

    monkeypatch.setattr(host, "output_folder", lambda: str(tmp_path))
    (tmp_path / "run_00001_.md").write_text("the other's")
    pictures = {"grid": Image.new("RGB", (2, 2))}
    path = evaluation_files.write("run", "mine", {"a": 1}, pictures)
    assert path.name == "run_00002_.json"
    assert {file.name for file in tmp_path.iterdir()} == {
        "run_00001_.md", "run_00002_.md", "run_00002_.json", "run_00002_grid.png",
    }  # fmt: skip
    assert (tmp_path / "run_00001_.md").read_text() == "the other's"
