"""Evaluate Erasure in the real host: it draws as KSampler does, changes nothing, and leaves files also when cancelled."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from concept_erasure.erasure_core.erased_unet import ErasedUNet, load_erased_unet, save_erased_unet
from concept_erasure.erasure_core.evaluation.judges.judge import ConceptJudge, load_judge
from concept_erasure.erasure_core.evaluation.prompts import prompt_groups
from concept_erasure.erasure_core.evaluation.sampler import Sampling
from erasure_tests.runs import base_hash, drawing_inputs

from playground.build import build_judge
from testbed.playground import Playground

pytestmark = pytest.mark.usefixtures("as_a_node_runs")
SAMPLING = Sampling(64, 64, 2, 3.0, "euler", "normal", batch_size=4)
PROMPTS = prompt_groups(["circle"], ["a red {}"], look_alikes="oval", retain_prompts="a blue square")
EDIT = Path(__file__).parent.parent / "playground" / "weights" / "erased_circle.safetensors"


@pytest.fixture(scope="module")
def judge(tmp_path_factory) -> ConceptJudge:
    """The playground's judge, read as any other."""
    folder = tmp_path_factory.mktemp("judges") / "playground"
    build_judge(folder)
    return load_judge(folder, "playground", torch.device("cpu"))


@pytest.fixture(scope="module")
def edit() -> ErasedUNet:
    """The edit that comes with the playground."""
    return load_erased_unet(EDIT)


@pytest.fixture
def output(monkeypatch, tmp_path: Path) -> Path:
    """ComfyUI's output folder, elsewhere."""
    from concept_erasure.nodes import host

    monkeypatch.setattr(host, "output_folder", lambda: str(tmp_path))
    return tmp_path


def erased_model(testbed: Playground, edit: ErasedUNet):
    """The playground with the edit."""
    from concept_erasure.nodes import host

    return host.patched(testbed.model, edit, 1.0)


def captions_of(monkeypatch, module) -> list[str]:
    """What is written below the sheets of a module from now on."""
    captions, original = [], module.captioned
    monkeypatch.setattr(module, "captioned", lambda sheet, said: captions.extend(said) or original(sheet, said))
    return captions


def inputs(testbed: Playground, erased: Any, prefix: str) -> dict[str, Any]:
    """What the node is given by name."""
    return drawing_inputs(testbed, erased, prefix) | {
        "concepts": "circle", "templates": "a red {}", "pictures_per_prompt": 1,
    }  # fmt: skip


def run(testbed: Playground, model, judge: ConceptJudge | None = None, **changes):
    """Evaluate a few pictures of two sampling steps."""
    from concept_erasure.nodes import host
    from concept_erasure.nodes.runs.evaluation import run

    linked = {"clip": testbed.clip, "vae": testbed.vae, "sampling": SAMPLING}
    linked = {name: changes.pop(name, value) for name, value in linked.items()}
    models = host.LinkedModels(testbed.model, model, judge=judge, **linked)
    return run(models, ["circle"], PROMPTS, 2, 11, **changes)


def test_the_model_against_itself_drifts_by_exactly_nothing_and_stays_as_it_was(testbed, judge) -> None:
    before = base_hash(testbed)
    evaluation = run(testbed, testbed.model, judge).evaluation
    assert evaluation.drifts() and all(row.drift.value == 0 and row.drift.high == 0 for row in evaluation.drifts())
    assert evaluation.proportions() and all(row.base == row.erased for row in evaluation.proportions())
    assert base_hash(testbed) == before


def test_an_edit_moves_its_target_most_and_leaves_the_base_model_as_it_was(testbed, edit, judge) -> None:
    before = base_hash(testbed)
    evaluation = run(testbed, erased_model(testbed, edit), judge).evaluation
    drift = {row.group: row.drift.value for row in evaluation.drifts() if row.space == "latents"}
    assert drift["target"] > 2 * drift["retain"] > 0
    assert base_hash(testbed) == before


def test_a_picture_is_what_ksampler_draws_for_its_seed(testbed) -> None:
    from concept_erasure.nodes import host

    import nodes

    painter = host.ComfyImageSampler(
        testbed.model, testbed.clip, testbed.vae, dataclasses.replace(SAMPLING, batch_size=1)
    )
    drawn = painter.draw(["a red circle", "a blue square"], [3, 4])
    positive, negative = ([[testbed.text(text), {}]] for text in ("a blue square", ""))
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    (stock,) = nodes.common_ksampler(testbed.model, 4, 2, 3.0, "euler", "normal", positive, negative, latent)
    assert torch.equal(testbed.model.model.process_latent_in(stock["samples"]), drawn.latents[1:])
    assert drawn.pictures.shape == (2, 64, 64, 3)


def test_the_node_writes_its_files_and_hands_the_scores_on_with_the_edit(
    testbed, edit, judge, output, tmp_path, monkeypatch
) -> None:
    from concept_erasure.nodes.evaluate import EvaluateErasure
    from concept_erasure.nodes.pictures import evaluation

    captions = captions_of(monkeypatch, evaluation)
    monkeypatch.setattr(EvaluateErasure, "hidden", SimpleNamespace(unique_id="7"), raising=False)
    grid, chart, report, scored = EvaluateErasure.execute(
        **inputs(testbed, erased_model(testbed, edit), "there/evaluation"),
        judge=judge,
        retain_prompts="a blue square",
        erased_unet=edit,
    ).args
    assert grid.shape[0] == chart.shape[0] == 1 and grid.shape[-1] == 3 and grid.std() > 0
    assert len(captions) == 2 and all("judge 'playground'" in said and "right in" in said for said in captions)
    names = {path.name for path in (output / "there").iterdir()}
    assert names == {f"evaluation_00001_{end}" for end in ("grid.png", "chart.png")} | {
        f"evaluation_00001_.{end}" for end in ("md", "json")
    }
    stored = json.loads((output / "there" / "evaluation_00001_.json").read_text("utf-8"))
    assert "evaluation_00001_.json" in report and stored["complete"]
    save_erased_unet(scored, tmp_path / "scored.safetensors")
    kept = load_erased_unet(tmp_path / "scored.safetensors")
    assert kept.provenance.scores["shares"] == json.loads(json.dumps(scored.provenance.scores["shares"]))
    assert kept.provenance.scores["judge"] == "playground" and kept.tensors.keys() == edit.tensors.keys()


def test_what_an_edit_hurts_most_becomes_the_look_alike_group(testbed, edit, judge, output, monkeypatch) -> None:
    """Find Adversarial Concept's list, with a word that the judge does not know."""
    from concept_erasure.nodes.adversarial import FindAdversarialConcept
    from concept_erasure.nodes.evaluate import EvaluateErasure

    for node in (FindAdversarialConcept, EvaluateErasure):
        monkeypatch.setattr(node, "hidden", SimpleNamespace(unique_id="7"), raising=False)
    words = "pebble\noval\ncross\nsquare"
    found, *_ = FindAdversarialConcept.execute(
        testbed.model, testbed.clip, "circle", "shapes_and_colours", 4, 64, 64, 0, candidates=words, erased_unet=edit
    ).args
    assert sorted(found.splitlines()) == sorted(words.splitlines())
    report = EvaluateErasure.execute(
        **inputs(testbed, erased_model(testbed, edit), "near"), judge=judge, look_alikes=found
    ).args[2]
    stored = json.loads((output / "near_00001_.json").read_text("utf-8"))
    alike = [one["prompt"]["text"] for one in stored["pictures"] if one["prompt"]["group"] == "look-alike"]
    assert alike == [f"a red {word}" for word in found.splitlines()], "in the order of the list"
    (share,) = [row for row in stored["shares"] if row["group"] == "look-alike" and row["score"] == "PSR-1"]
    assert share["base"]["n"] == 3 and "not judged" in report and "'a red pebble'" in report


def test_a_caption_is_wrapped_below_the_sheet_and_leaves_it_as_it_was() -> None:
    from concept_erasure.nodes.pictures.charts import captioned
    from PIL import Image, ImageChops

    sheet = Image.new("RGB", (200, 50), (10, 20, 30))
    one, many = captioned(sheet, ["short"]), captioned(sheet, ["short", "many words " * 20])
    assert one.width == many.width == 200 and many.height > one.height + 40 > 80
    for found in (one, many):
        assert not ImageChops.difference(found.crop((0, 0, 200, 50)), sheet).getbbox()
        below = found.crop((0, 50, 200, found.height)).convert("L")
        assert below.getextrema()[0] < 200 < below.crop((190, 0, 200, below.height)).getextrema()[0]


def test_a_prompt_file_of_the_input_folder_is_drawn_with_its_own_seeds(testbed, output, tmp_path, monkeypatch) -> None:
    from concept_erasure.nodes import host
    from concept_erasure.nodes.evaluate import EvaluateErasure
    from concept_erasure.nodes.inputs import prompt_files

    monkeypatch.setattr(EvaluateErasure, "hidden", SimpleNamespace(unique_id="7"), raising=False)
    monkeypatch.setattr(host, "input_folder", lambda: tmp_path)
    given = inputs(testbed, testbed.model, "set")
    with pytest.raises(ValueError, match=r"no prompt file '\.\./set.csv'"):
        EvaluateErasure.execute(**given, prompt_file="../set.csv")
    file = tmp_path / "set.csv"
    file.write_text(
        "prompt,class,seed,guidance\na circle,circle,71,2\nbad,circle,x,2\na square,square,72,\n", encoding="utf-8"
    )
    assert prompt_files.available() == ["none", "Imagenette (built in)", "set.csv"]
    assert prompt_files.state("Imagenette (built in)") == prompt_files.state("none") == ""
    assert len(prompt_files.read("Imagenette (built in)", ["tench"]).prompts) == 10
    before = EvaluateErasure.fingerprint_inputs(prompt_file="set.csv", seed=0)
    report = EvaluateErasure.execute(**given, prompt_file="set.csv").args[2]
    stored = json.loads((output / "set_00001_.json").read_text("utf-8"))
    drawn = [(one["prompt"]["text"], one["seed"], one["prompt"]["guidance_scale"]) for one in stored["pictures"]]
    assert drawn == [("a circle", 71, 2.0), ("a square", 72, None), ("", 0, None)]
    assert "set.csv, line 3 was left out: the seed 'x'" in report
    file.write_text("prompt\na circle\n", encoding="utf-8")
    assert EvaluateErasure.fingerprint_inputs(prompt_file="set.csv", seed=0) != before


def test_a_cancel_leaves_what_was_measured_so_far(testbed, output, monkeypatch) -> None:
    from concept_erasure.nodes import host
    from concept_erasure.nodes.runs.progress import NodeProgress

    asked = []

    def cancelled(_progress: NodeProgress, doing: str = "", **_done: float) -> None:
        asked.append(doing)
        if "look-alike" in doing:
            raise host.Cancelled

    monkeypatch.setattr(NodeProgress, "check", cancelled)
    before = base_hash(testbed)
    with pytest.raises(host.Cancelled):
        run(testbed, testbed.model, filename_prefix="cut")
    stored = json.loads((output / "cut_partial_00001_.json").read_text("utf-8"))
    assert not stored["complete"] and {row["group"] for row in stored["drift"]} == {"target"}
    assert base_hash(testbed) == before


def test_bad_input_is_named_before_anything_is_drawn(testbed, judge, monkeypatch) -> None:
    from concept_erasure.nodes import host

    monkeypatch.setattr(host.ComfyImageSampler, "draw", lambda *_: pytest.fail("something was drawn"))
    with pytest.raises(ValueError, match="VAE is empty"):
        run(testbed, testbed.model, vae=None)
    with pytest.raises(ValueError, match="width is 60"):
        run(testbed, testbed.model, sampling=dataclasses.replace(SAMPLING, width=60))
    with pytest.raises(ValueError, match="MODEL is empty"):
        run(testbed, None)
    with pytest.raises(ValueError, match="no label for 'circle'"):
        run(testbed, testbed.model, judge=ConceptJudge("colours", judge.factors[:1]))


def test_the_judges_of_comfyuis_folders_are_listed_and_a_missing_one_is_named(tmp_path, monkeypatch) -> None:
    from concept_erasure.nodes import host
    from concept_erasure.nodes import judge as node

    build_judge(tmp_path / "toy")
    monkeypatch.setattr(host, "folders", lambda kind: [tmp_path] if kind == "concept_judges" else [])
    assert node.available() == ["toy", "toy/colour", "toy/fill", "toy/shape", "nudenet (detector)"]
    loaded, labels = node.LoadConceptJudge.execute("toy").args
    assert len(loaded.factors) == 3 and "right in" in labels and "circle" in labels
    before = node.LoadConceptJudge.fingerprint_inputs("toy")
    (tmp_path / "toy" / "shape" / "accuracy.json").unlink()
    assert node.LoadConceptJudge.fingerprint_inputs("toy") != before
    with pytest.raises(ValueError, match="no concept judge named"):
        node.find("../toy")
