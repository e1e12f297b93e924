"""Every workflow through a real server, in its short form, and what each of them shows."""

from __future__ import annotations

import json
import urllib.request

import pytest
import torch
from concept_erasure.erasure_core.erased_unet import load_erased_unet
from erasure_tests.server import QUICK

from devtools import make_workflows
from devtools.serving import server
from devtools.workflows.first_steps import JUDGE, SAVED, THREE
from devtools.workflows.graph import each
from devtools.workflows.mechanisms import HIDDEN
from devtools.workflows.published import pack_id, pack_version
from devtools.workflows.sheet import BOOK, SMALL

CHARTS = (
    "What erasing cat hurts most",
    "Before and after, with verdicts",
    "Scores",
    "What it survives",
    "Attack and control, with verdicts",
)
NAMES = tuple(make.__name__ for make in make_workflows.MAKERS)
HERE = tuple(name for name in NAMES if name not in make_workflows.REAL)
"""Those that run on the playground or the picture book."""


@pytest.mark.parametrize("name", HERE)
def test_a_workflow_runs_and_its_pictures_have_the_size_asked_for(bench, name):
    done = bench.workflow(name)
    shown = [
        node for node, entry in done.prompt.items()
        if entry["class_type"] in ("SaveImage", "PreviewImage") and entry["_meta"]["title"] not in CHARTS
    ]  # fmt: skip
    assert shown or name in ("evaluate", "red_team", "erase_measure_attack_save"), "these show nothing but charts"
    for node in shown:
        pictures = done.pictures(node)
        assert len(pictures) == (THREE if name == "erase_and_compare" else SMALL).pictures
        assert {picture.shape for picture in pictures} == {(64, 64, 3)}
        assert all(picture.std() > 1 for picture in pictures), "an empty picture"


def test_the_files_are_as_the_nodes_are_now(bench):
    """Values are saved by position: a changed default or a new setting makes a file stale."""
    for path, expected in make_workflows.texts(bench.info).items():
        assert path.read_text("utf-8") == expected, f"{path.name}: run python -m devtools.make_workflows"


def test_every_workflow_file_has_a_maker_and_a_thumbnail_and_stands_in_order():
    for ending in (".json", ".jpg"):
        stems = sorted(path.stem for path in make_workflows.FOLDER.glob(f"*{ending}"))
        assert stems == [make_workflows.path_of(name).stem for name in NAMES]


def test_the_host_offers_the_blueprints(bench):
    with urllib.request.urlopen(f"{bench.running.url}/global_subgraphs", timeout=30) as answer:
        offered = {(one["info"]["node_pack"], one["name"]) for one in json.load(answer).values()}
    for title in make_workflows.BLUEPRINT_TITLES.values():
        assert ("custom_nodes.concept-erasure", title) in offered


def test_every_node_says_which_pack_it_is_from():
    """So that a page without this pack can offer to install it."""
    for path in make_workflows.FOLDER.glob("*.json"):
        for node in each(json.loads(path.read_text("utf-8"))):
            if node["type"] == "MarkdownNote":
                continue
            ours = node["type"].startswith("Erasure") or "-" in node["type"]  # a subgraph's id is its type
            pack = {"cnr_id": pack_id(), "ver": pack_version()} if ours else {"cnr_id": "comfy-core", "ver": "0.30.0"}
            assert pack.items() <= node["properties"].items(), (path.name, node["type"])


def test_every_model_file_has_an_address(bench):
    """The files that a workflow saves itself are the exception: they come from the workflow before it."""
    loaders = {"CheckpointLoaderSimple", "UNETLoader", "DualCLIPLoader", "VAELoader", "LoraLoaderModelOnly"}
    loaders |= {"ErasureLoadErasedUNet", "ErasureLoadConceptJudge"}
    for name in NAMES:
        for node in each(make_workflows.workflow(name)):
            if node["type"] not in loaders or (name in make_workflows.NEEDS and "Erased" in node["type"]):
                continue
            files = [value for value in node["widgets_values"] if str(value).endswith(".safetensors") or value == JUDGE]
            assert [one["name"] for one in node["properties"]["models"]] == files
            for one in node["properties"]["models"]:
                assert one["url"].startswith("https://") and one["directory"]
                if name not in make_workflows.REAL:
                    assert one["hash_type"] == "SHA256" and len(one["hash"]) == 64


@pytest.mark.parametrize("name", make_workflows.REAL)
def test_a_workflow_for_a_real_checkpoint_lacks_only_the_checkpoint(bench, name):
    prompt = server.api_prompt(make_workflows.workflow(name), bench.info)
    loaders = {node for node, entry in prompt.items() if "Load" in entry["class_type"]}
    files = {value for node in loaders for value in prompt[node]["inputs"].values() if value.endswith(".safetensors")}
    with pytest.raises(server.ServerError) as refused:
        server.queue(bench.running, prompt)
    said = str(refused.value)
    assert "Value not in list" in said and any(file in said for file in files)
    faults = [part for part in said.split("; ") if part.startswith("node ")]
    assert {part.split()[1] for part in faults} <= loaders, said
    assert all("Value not in list" in part for part in faults), said


@pytest.mark.slow
def test_the_workflow_for_sd15_runs_on_the_playground_at_its_size(bench):
    """The playground is a checkpoint of that layout; its pictures are small."""
    prompt = bench.quick_prompt("sd15")
    for entry in prompt.values():
        small = {"width": 64, "height": 64, "ckpt_name": "playground.safetensors"}
        entry["inputs"] |= {key: value for key, value in small.items() if key in entry["inputs"]}
    done = bench.run(prompt)
    assert "cat" in done.output(done.node("Report"))["text"][0]
    for when in ("before", "after"):
        assert len(done.pictures(done.node(f"{when}: a photo of a cat on a sofa"))) == 2


def saved_by(done) -> str:
    """The file that erase_and_compare saved, as a loader lists it: its number depends on what ran on the server before."""
    said = done.output(done.node("Save Erased UNet"))["text"][0].replace("\\", "/")
    return said.split("/loras/")[1].split(".safetensors")[0] + ".safetensors"


def test_erase_and_compare_saves_a_file_reports_and_plots(bench):
    done = bench.workflow("erase_and_compare")
    name = saved_by(done)
    assert name[: -len("00001_.safetensors")] == SAVED[: -len("00001_.safetensors")]
    assert (bench.running.base_directory / "output" / "loras" / name).is_file()
    report = done.output(done.node("Report"))["text"][0]
    assert "cat" in report and "UNet evaluations" in report
    assert len(done.pictures(done.node("Plot Loss Graph"))) == 1


def test_the_list_found_is_retained(bench):
    done = bench.workflow("find_adversarial_and_retain")
    (chart,) = done.pictures(done.node("What erasing cat hurts most"))
    assert chart.shape[1] == 640
    ranking = done.output(done.node("Ranking"))["text"][0]
    assert all(f"| {word} |" in ranking for word in ("lion", "violin", "house"))
    assert done.prompt[done.node("Erase Concept, retaining them")]["inputs"]["retain"] == [
        done.node("Find Adversarial Concept"), 0
    ]  # fmt: skip


def test_an_edit_is_measured_and_saved_with_its_scores(bench):
    done = bench.workflow("evaluate")
    report = done.output(done.node("Report"))["text"][0]
    assert "| target | ESR-1 |" in report and "| retain | PSR-1 |" in report and "right in" in report
    for title in CHARTS[1:3]:
        (picture,) = done.pictures(done.node(title))
        assert picture.std() > 1
    output = bench.running.base_directory / "output"
    (saved,) = output.glob("loras/erased/measured*.safetensors")
    assert load_erased_unet(saved).provenance.scores["judge"] == JUDGE
    (stored,) = output.glob("erasure/evaluation*.json")
    assert json.loads(stored.read_text("utf-8"))["complete"]


def test_an_edit_is_attacked_and_the_figures_are_kept(bench):
    done = bench.workflow("red_team")
    several, one = (done.output(done.node(title))["text"][0] for title in ("Report", "Report of one attack"))
    assert "survives: " in several and "| completion |" in several and "right in" in several
    assert "| relearn pictures=2 steps=2 |" in one
    for title in CHARTS[3:]:
        (picture,) = done.pictures(done.node(title))
        assert picture.std() > 1
    output = bench.running.base_directory / "output"
    (stored,) = output.glob("erasure/red_team_summary*.json")
    assert [found["attack"] for found in json.loads(stored.read_text("utf-8"))["attacks"]] == ["completion", "img2img"]
    (picture,) = output.glob("erasure/red_team_0*strongest.png")
    assert picture.stat().st_size > 0


def test_one_workflow_erases_measures_attacks_and_saves(bench):
    done = bench.workflow("erase_measure_attack_save")
    measured, attacked = (
        done.output(done.node(f"Report of the {what}"))["text"][0] for what in ("measurement", "attacks")
    )
    assert "| look-alike | PSR-1 |" in measured and "survives: " in attacked and "| completion |" in attacked
    output = bench.running.base_directory / "output"
    (saved,) = output.glob("loras/erased/whole*.safetensors")
    kept = load_erased_unet(saved).provenance
    assert kept.targets == (("cat", ""),) and {row["score"] for row in kept.scores["shares"]} >= {"ESR-1", "PSR-1"}
    (stored,) = output.glob("erasure/whole_measured*.json")
    pictures = json.loads(stored.read_text("utf-8"))["pictures"]
    alike = {one["prompt"]["concept"] for one in pictures if one["prompt"]["group"] == "look-alike"}
    assert len(alike) == 3 and alike <= set(QUICK["candidates"].splitlines()), (
        "the list that Find Adversarial Concept gave"
    )


def test_the_stock_lora_loader_draws_what_our_node_draws(bench):
    done = bench.workflow("stock_lora_loader")
    ours, stock = (
        done.latents(done.node(f"KSampler, {name}: a red circle"))
        for name in ("Apply Erased UNet", "stock LoRA loader")
    )
    assert (ours - stock).abs().max() <= 1e-3
    before = bench.workflow("closed_form_in_seconds")
    unedited = before.latents(before.node("KSampler, before: a red circle"))
    assert (stock - unedited).abs().max() > 0.01, "the edit changed nothing"


def test_a_task_lora_on_top_and_one_beside_the_erasure_are_two_things(bench):
    done = bench.workflow("modular_lora")
    titles = ("before", "erased", "(a) trained on top", "(b) trained beside")
    latents = [done.latents(done.node(f"KSampler, {title}: a red circle")) for title in titles]
    for i, one in enumerate(latents):
        assert all((one - other).abs().max() > 1e-3 for other in latents[:i])


@pytest.mark.parametrize(
    ("name", "acts", "stays"),
    [
        ("closed_form_in_seconds", ("uce", "rece"), ()),
        ("gated_by_the_prompt", ("gated", "ungated"), ("gated",)),
        ("sae_features", ("after",), ()),
        ("side_network", ("after",), ("after",)),
        ("hide_behind_a_key", ("hidden",), ()),
    ],
)
def test_a_mechanism_changes_the_erased_concept_and_a_closed_gate_nothing_else(bench, name, acts, stays):
    done = bench.workflow(name)

    def latents(model: str, prompt: str) -> torch.Tensor:
        return done.latents(done.node(f"KSampler, {model}: {prompt}"))

    for model in acts:
        assert (latents(model, "a red circle") - latents("before", "a red circle")).abs().max() > 1e-3
        unchanged = torch.equal(latents(model, "a blue square"), latents("before", "a blue square"))
        assert unchanged == (model in stays), f"{model}: a gate is open or closed where it should not be"


def test_a_key_is_a_file_of_its_own_and_changes_what_the_edit_draws(bench):
    hidden, opened = bench.workflow("hide_behind_a_key"), bench.workflow("open_with_the_key")
    output = bench.running.base_directory / "output"
    edit, key = (f"{HIDDEN}{part}_00001_.safetensors" for part in ("", "_key"))
    assert (output / "loras" / edit).is_file() and (output / "erased_unets" / key).is_file()
    closed = opened.latents(opened.node("KSampler, hidden: a red circle"))
    assert (closed - hidden.latents(hidden.node("KSampler, hidden: a red circle"))).abs().max() <= 1e-3
    assert (closed - opened.latents(opened.node("KSampler, with the key: a red circle"))).abs().max() > 1e-3


def test_what_is_saved_and_loaded_draws_what_was_erased(bench):
    erased = bench.workflow("erase_and_compare")
    direct = erased.latents(erased.node("KSampler, after: a cat in flat style"))
    prompt = bench.quick_prompt("stock_lora_loader")
    given = dict.fromkeys(("name", "lora_name"), saved_by(erased))
    given |= {"ckpt_name": BOOK, "batch_size": THREE.pictures}
    for entry in prompt.values():
        entry["inputs"] |= {key: value for key, value in given.items() if key in entry["inputs"]}
        if entry["inputs"].get("text") == "a red circle":
            entry["inputs"]["text"] = "a cat in flat style"
    loaded = bench.run(prompt)
    for name in ("Apply Erased UNet", "stock LoRA loader"):
        assert (direct - loaded.latents(loaded.node(f"KSampler, {name}: a red circle"))).abs().max() <= 1e-3
