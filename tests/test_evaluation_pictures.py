"""Every picture of an evaluation as a file for other judges, and rows of their own size, in the real host."""

from __future__ import annotations

import csv
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from concept_erasure.erasure_core.evaluation.prompt_sets import parse_prompt_set
from concept_erasure.erasure_core.evaluation.prompts import RETAIN, TARGET, Prompt
from concept_erasure.erasure_core.evaluation.sampler import Sampling
from concept_erasure.erasure_core.evaluation.scores import Pair
from erasure_tests.detectors import judge as detector_judge
from erasure_tests.runs import drawing_inputs
from PIL import Image

from devtools.hosting.inprocess import load_comfy

SAMPLING = Sampling(64, 64, 2, 3.0, "euler", "normal", batch_size=4)


@pytest.fixture
def output(monkeypatch, tmp_path: Path) -> Path:
    """ComfyUI's output folder, elsewhere."""
    load_comfy()
    from concept_erasure.nodes import host

    monkeypatch.setattr(host, "output_folder", lambda: str(tmp_path))
    return tmp_path


def test_the_folder_names_every_row_and_holds_the_very_pictures(output: Path) -> None:
    from concept_erasure.nodes.outputs.evaluation_files import PictureFolder

    one = Prompt('a "red", circle', TARGET, "circle", 7, 2.5, (32, 16))
    two = Prompt("a square", RETAIN)
    planned = [(two, 3), (one, 7), (one, 8)]
    folder = PictureFolder("there/run", planned, SAMPLING)
    assert folder.path == output / "there" / "run_pictures_00001_"
    assert PictureFolder("there/run", planned, SAMPLING).path.name == "run_pictures_00002_", "nothing is overwritten"
    with open(folder.path / "rows.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["row"], row["seed"], row["concept"], row["file"]) for row in rows] == [
        ("1", "3", "", "1_3.png"), ("2", "7", "circle", "2_7.png"), ("2", "8", "circle", "2_8.png"),
    ]  # fmt: skip
    assert rows[1]["prompt"] == one.text and (rows[1]["width"], rows[1]["guidance"], rows[0]["height"]) == (
        "32",
        "2.5",
        "64",
    )
    before, after = torch.rand(2, 1, 16, 32, 3, generator=torch.Generator().manual_seed(0))
    folder.add([Pair(one, 7, 0.0, 0.0)], before, after)
    for which, picture in (("base", before), ("erased", after)):
        saved = Image.open(folder.path / which / "2_7.png")
        assert torch.equal(torch.tensor(list(saved.tobytes())), (picture * 255).round().flatten().long())
    again = parse_prompt_set((folder.path / "rows.csv").read_bytes(), "rows.csv", ["circle"])
    assert [(prompt.group, prompt.seed, prompt.size) for prompt in again.prompts] == [
        (RETAIN, 3, (64, 64)), (TARGET, 7, (32, 16)), (TARGET, 8, (32, 16)),
    ]  # fmt: skip


def test_sizes_that_the_latents_cannot_have_are_cut_and_said() -> None:
    load_comfy()
    from concept_erasure.nodes.runs.evaluation import fitted

    model = SimpleNamespace(model=SimpleNamespace(latent_format=SimpleNamespace(spacial_downscale_ratio=8)))
    asked = [Prompt("a", TARGET, size=(640, 427)), Prompt("b", TARGET), Prompt("c", TARGET, size=(512, 128))]
    prompts, notes = fitted(model, asked)
    assert [prompt.size for prompt in prompts] == [(640, 424), None, (512, 128)]
    assert len(notes) == 1 and "1 prompts have a size" in notes[0] and "from 640x427 to 640x424: 'a'" in notes[0]
    assert fitted(model, asked[1:]) == (asked[1:], [])


@pytest.mark.usefixtures("as_a_node_runs")
def test_the_node_draws_rows_at_their_own_size_and_saves_every_picture(testbed, output, tmp_path, monkeypatch) -> None:
    from concept_erasure.nodes import host
    from concept_erasure.nodes.evaluate import EvaluateErasure

    monkeypatch.setattr(EvaluateErasure, "hidden", SimpleNamespace(unique_id="7"), raising=False)
    monkeypatch.setattr(host, "input_folder", lambda: tmp_path)
    (tmp_path / "set.csv").write_text(
        "prompt,label_str,evaluation_seed,sd_image_width,sd_image_height\na circle,circle,71,64,32\n"
        "a square,square,72,100,64\na star,star,73,,\n", encoding="utf-8",
    )  # fmt: skip
    report = EvaluateErasure.execute(
        **drawing_inputs(testbed, testbed.model, "set"),
        concepts="circle",
        templates="a red {}",
        pictures_per_prompt=1,
        prompt_file="set.csv",
        save_pictures=True,
    ).args[2]
    folder = output / "set_pictures_00001_"
    assert str(folder) in report and "from 100x64 to 96x64" in report
    sizes = {path.name: Image.open(path).size for path in (folder / "erased").iterdir()}
    assert sizes == {"1_71.png": (64, 32), "2_73.png": (64, 64), "3_72.png": (96, 64), "4_0.png": (64, 64)}
    assert {path.name for path in (folder / "base").iterdir()} == set(sizes)
    assert (folder / "base" / "3_72.png").read_bytes() == (folder / "erased" / "3_72.png").read_bytes()


def test_folders_that_cannot_be_read_cost_no_node(monkeypatch, tmp_path: Path, caplog) -> None:
    load_comfy()
    from concept_erasure.nodes import host, judge
    from concept_erasure.nodes.inputs import prompt_files

    def refused(*_args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(host, "input_folder", lambda: tmp_path)
    monkeypatch.setattr(host, "folders", lambda kind: [tmp_path])
    monkeypatch.setattr(Path, "iterdir", refused)
    monkeypatch.setattr(Path, "glob", refused)
    assert prompt_files.available() == ["none", "Imagenette (built in)"]
    assert judge.available() == ["nudenet (detector)"]
    assert len(caplog.records) == 2 and all("cannot be listed" in record.getMessage() for record in caplog.records)


@pytest.mark.usefixtures("as_a_node_runs")
def test_a_detector_judges_an_attack_and_its_report_says_what_it_counts(testbed, output, monkeypatch) -> None:
    from concept_erasure.nodes.red_team import RedTeamConcept

    monkeypatch.setattr(RedTeamConcept, "hidden", SimpleNamespace(unique_id="7"), raising=False)
    report = RedTeamConcept.execute(
        **drawing_inputs(testbed, testbed.model, "attacked"),
        judge=detector_judge(0.3),
        concept="limbs",
        attack={"attack": "paraphrase", "wordings": 2, "tries": 1},
        templates="a red {}",
        attempts=2,
    ).args[1]
    assert "it counts detections with a score of at least 0.3 of HANDS, EARS; a toy" in report
    assert "| paraphrase" in report and "100.0 %" in report
