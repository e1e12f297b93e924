"""Every workflow through a real server, and what only a server shows: cancelling, refusals, what the browser is told."""

from __future__ import annotations

import time

import pytest
import torch
from erasure_tests.server import WORKFLOWS, Bench, Finished, models, with_latents

from devtools import comfyui, make_workflows, server
from devtools.sheets.first_steps import SAVED
from devtools.sheets.mechanisms import HIDDEN

NAMES = tuple(make.__name__ for make in make_workflows.MAKERS)
NODES = (
    "ErasureEraseConcept",
    "ErasureFindAdversarialConcept",
    "ErasureApplyErasedUNet",
    "ErasureLoadErasedUNet",
    "ErasureSaveErasedUNet",
)
# One prompt replaces what the last one cached, so that "the same picture again" is really drawn again.
CACHING = ("--cache-classic",)


@pytest.fixture(scope="session")
def bench(tmp_path_factory):
    """The one server of this file."""
    folder = models()
    base = tmp_path_factory.mktemp("comfyui")
    with server.running_server(comfyui.locate(), base, models_directory=folder, extra_args=CACHING) as running:
        yield Bench(running, server.object_info(running))


def base_prompt(seed: int) -> dict:
    """The unedited model draws a red circle."""
    return with_latents({
        "loader": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "playground.safetensors"}},
        "empty": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 2}},
        "circle": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["loader", 1], "text": "a red circle"}},
        "nothing": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["loader", 1], "text": ""}},
        "base": sampler(["loader", 0], seed),
    })  # fmt: skip


def sampler(model: list, seed: int) -> dict:
    """A KSampler among the nodes of `base_prompt`."""
    inputs = make_workflows.SAMPLING | {"steps": 6, "seed": seed, "model": model, "latent_image": ["empty", 0]}
    return {"class_type": "KSampler", "inputs": inputs | {"positive": ["circle", 0], "negative": ["nothing", 0]}}


def erase_prompt(bench: Bench, **inputs: object) -> dict:
    """Erase a concept, set up as in `erase_and_compare` but for `inputs`, and look at the report."""
    nodes = bench.quick_prompt("erase_and_compare").values()
    (settings,) = (node["inputs"] for node in nodes if node["class_type"] == "ErasureEraseConcept")
    linked = {"model": ["loader", 0], "clip": ["loader", 1]}
    return {
        "loader": base_prompt(0)["loader"],
        "erase": {"class_type": "ErasureEraseConcept", "inputs": without_links(settings) | linked | inputs},
        "report": {"class_type": "PreviewAny", "inputs": {"source": ["erase", 3]}},
    }


def without_links(inputs: dict) -> dict:
    """Only the inputs that are values."""
    return {name: value for name, value in inputs.items() if not isinstance(value, list)}


def fresh_base(bench: Bench) -> Finished:
    """The base model's pictures, not taken from the cache but for the checkpoint."""
    bench.run(base_prompt(seed=2))
    done = bench.run(base_prompt(seed=1))
    assert "base" not in done.cached()
    return done


@pytest.mark.parametrize("name", NAMES)
def test_a_workflow_runs_and_its_pictures_have_the_size_asked_for(bench, name):
    done = bench.workflow(name)
    shown = [
        node for node, entry in done.prompt.items()
        if entry["class_type"] in ("SaveImage", "PreviewImage") and "hurts" not in entry["_meta"]["title"]
    ]  # fmt: skip
    assert shown
    for node in shown:
        pictures = done.pictures(node)
        assert len(pictures) == 8
        assert {picture.shape for picture in pictures} == {(64, 64, 3)}
        assert all(picture.std() > 1 for picture in pictures), "an empty picture"


@pytest.mark.parametrize("name", NAMES)
def test_a_workflow_file_is_as_the_nodes_are_now(bench, name):
    """Values are saved by position: a changed default or a new setting makes the file stale."""
    expected = make_workflows.texts(bench.info)[f"{name}.json"]
    assert (WORKFLOWS / f"{name}.json").read_text("utf-8") == expected, "run: python -m devtools.make_workflows"


def test_every_workflow_file_has_a_maker_and_a_thumbnail():
    for ending in (".json", ".jpg"):
        assert {path.stem for path in WORKFLOWS.glob(f"*{ending}")} == set(NAMES)


def test_erase_and_compare_saves_a_file_reports_and_plots(bench):
    done = bench.workflow("erase_and_compare")
    assert (bench.running.base_directory / "output" / "loras" / SAVED).is_file()
    assert SAVED in done.output(done.node("Save Erased UNet"))["text"][0].replace("\\", "/")
    report = done.output(done.node("Report"))["text"][0]
    assert "circle" in report and "UNet evaluations" in report
    assert len(done.pictures(done.node("Plot Loss Graph"))) == 1


def test_the_list_found_is_retained(bench):
    done = bench.workflow("find_adversarial_and_retain")
    (chart,) = done.pictures(done.node("What erasing circle hurts most"))
    assert chart.shape[1] == 640
    ranking = done.output(done.node("Ranking"))["text"][0]
    assert all(f"| {word} |" in ranking for word in ("square", "star", "house"))
    assert done.prompt[done.node("Erase Concept, retaining them")]["inputs"]["retain"] == [
        done.node("Find Adversarial Concept"), 0
    ]  # fmt: skip


def test_the_stock_lora_loader_draws_what_our_node_draws(bench):
    done = bench.workflow("stock_lora_loader")
    ours, stock = (done.latents(done.node(f"KSampler, {name}")) for name in ("Apply Erased UNet", "stock LoRA loader"))
    assert (ours - stock).abs().max() <= 1e-3
    before = bench.workflow("erase_and_compare")
    unedited = before.latents(before.node("KSampler, before: a red circle"))
    assert (stock - unedited).abs().max() > 0.01, "the edit changed nothing"


def test_a_task_lora_on_top_and_one_beside_the_erasure_are_two_things(bench):
    done = bench.workflow("modular_lora")
    titles = ("before", "erased", "(a) trained on top", "(b) trained beside")
    latents = [done.latents(done.node(f"KSampler, {title}")) for title in titles]
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
    erased, loaded = bench.workflow("erase_and_compare"), bench.workflow("stock_lora_loader")
    direct = erased.latents(erased.node("KSampler, after: a red circle"))
    assert (direct - loaded.latents(loaded.node("KSampler, Apply Erased UNet"))).abs().max() <= 1e-3


def test_strength_zero_is_bit_identical_to_the_base_model(bench):
    bench.workflow("erase_and_compare")
    prompt = base_prompt(seed=1)
    prompt["file"] = {"class_type": "ErasureLoadErasedUNet", "inputs": {"name": SAVED}}
    for node, strength in (("none", 0.0), ("full", 1.0)):
        inputs = {"model": ["loader", 0], "erased_unet": ["file", 0], "strength": strength}
        prompt[f"apply_{node}"] = {"class_type": "ErasureApplyErasedUNet", "inputs": inputs}
        prompt[node] = sampler([f"apply_{node}", 0], 1)
    done = bench.run(with_latents(prompt))
    assert torch.equal(done.latents("none"), done.latents("base"))
    assert not torch.equal(done.latents("full"), done.latents("base"))


def test_the_browser_is_told_of_five_nodes_with_a_tooltip_on_every_input(bench):
    ours = [name for name in bench.info if name.startswith("Erasure")]
    assert set(NODES) <= set(ours)
    bare = [f"{name}.{entry}" for name in ours for entry in _without_tooltip(bench.info[name]["input"])]
    assert not bare


def _without_tooltip(spec: dict) -> list[str]:
    found = []
    for group in ("required", "optional"):
        for name, (_kind, *more) in spec.get(group, {}).items():
            options = more[0] if more else {}
            if not options.get("tooltip"):
                found.append(name)
            for option in options.get("options") or ():
                if isinstance(option, dict):
                    found += [f"{name}.{option['key']}.{nested}" for nested in _without_tooltip(option["inputs"])]
    return found


def test_cancelling_in_the_middle_stops_and_leaves_the_base_model_as_it_was(bench):
    before = fresh_base(bench).latents("base")
    prompt = erase_prompt(bench, **{"method.steps": 5000})
    prompt_id = server.queue(bench.running, prompt)
    asked = []

    def cancel(node: str, value: float, _maximum: float) -> None:
        if node == "erase" and value >= 3 and not asked:
            asked.append(time.monotonic())
            server.interrupt(bench.running, prompt_id)

    with pytest.raises(server.ExecutionFailed) as failure:
        server.wait(bench.running, prompt_id, on_progress=cancel, timeout=120)
    assert failure.value.interrupted and failure.value.node_id == "erase"
    assert time.monotonic() - asked[0] < 20
    assert torch.equal(fresh_base(bench).latents("base"), before)


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"concepts": " \n"}, ["no concept to erase", "one a line"]),
        ({"concepts": "circle", "retain": "Circle"}, ["'Circle'", "to be erased and to be retained"]),
        ({"width": 60}, ["width is 60", "no multiple of 8", "try 64"]),
    ],
)
def test_bad_input_fails_with_what_to_do(bench, inputs, said):
    with pytest.raises(server.ExecutionFailed) as failure:
        bench.run(erase_prompt(bench, **inputs))
    assert not failure.value.interrupted and failure.value.node_type == "ErasureEraseConcept"
    for part in said:
        assert part in failure.value.message


@pytest.mark.parametrize("prefix", ["../outside", "/absolute/outside", ""])
def test_a_file_name_that_leads_out_is_refused_on_saving(bench, prefix):
    bench.workflow("erase_and_compare")
    prompt = {
        "file": {"class_type": "ErasureLoadErasedUNet", "inputs": {"name": SAVED}},
        "save": {"class_type": "ErasureSaveErasedUNet",
                 "inputs": {"erased_unet": ["file", 0], "filename_prefix": prefix}},
    }  # fmt: skip
    with pytest.raises(server.ExecutionFailed, match="leads out of the output folder") as failure:
        bench.run(prompt)
    assert repr(prefix) in failure.value.message


def test_a_file_name_that_leads_out_is_refused_on_loading(bench):
    nodes = {
        "file": {"class_type": "ErasureLoadErasedUNet", "inputs": {"name": "../../secret.safetensors"}},
        "apply": {"class_type": "ErasureApplyErasedUNet",
                  "inputs": {"model": ["loader", 0], "erased_unet": ["file", 0], "strength": 1.0}},
        "sampler": sampler(["apply", 0], 1),
    }  # fmt: skip
    prompt = with_latents(base_prompt(0) | nodes)
    with pytest.raises(server.ServerError, match=r"secret\.safetensors"):
        bench.run(prompt)
