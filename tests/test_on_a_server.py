"""What only a server shows: cancelling, refusals, strength zero, what the browser is told."""

from __future__ import annotations

import time

import pytest
import torch
from erasure_tests.server import Bench, Finished, with_latents

from devtools.serving import server
from devtools.workflows.first_steps import SAVED
from devtools.workflows.sheet import SAMPLING

NODES = (
    "ErasureEraseConcept",
    "ErasureFindAdversarialConcept",
    "ErasureApplyErasedUNet",
    "ErasureLoadErasedUNet",
    "ErasureSaveErasedUNet",
)


def base_prompt(seed: int) -> dict:
    """The unedited model of the picture book draws a cat."""
    return with_latents({
        "loader": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "picture_book.safetensors"}},
        "empty": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 2}},
        "cat": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["loader", 1], "text": "a cat"}},
        "nothing": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["loader", 1], "text": ""}},
        "base": sampler(["loader", 0], seed),
    })  # fmt: skip


def sampler(model: list, seed: int) -> dict:
    """A KSampler among the nodes of `base_prompt`."""
    inputs = SAMPLING | {"steps": 6, "seed": seed, "model": model, "latent_image": ["empty", 0]}
    return {"class_type": "KSampler", "inputs": inputs | {"positive": ["cat", 0], "negative": ["nothing", 0]}}


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
def test_bad_input_is_refused_before_anything_runs(bench, inputs, said):
    with pytest.raises(server.ServerError) as failure:
        bench.run(erase_prompt(bench, **inputs))
    assert not isinstance(failure.value, server.ExecutionFailed), "a node ran"
    for part in ("ErasureEraseConcept", *said):
        assert part in str(failure.value)


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
