"""What a MODEL with an edit on it says when a node of ComfyUI's merges, extracts, saves or compiles it, and that it is so."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from concept_erasure.erasure_core.erased_unet import ErasedUNet, weight_edit
from erasure_tests.acting import acting
from erasure_tests.families import small_model
from torch import Tensor

from testbed.playground import Playground

pytestmark = pytest.mark.usefixtures("as_a_node_runs", "few_words")
LAYER = "input_blocks.1.1.transformer_blocks.0.attn2.to_v"
ACTS, MERGED = "the erasure of 'circle' acts while the model runs and is ", "'circle' is merged as the weights are"
Merge = Callable[[Any, Any], Any]


def nodes(module: str) -> Any:
    """One of ComfyUI's modules of nodes."""
    return importlib.import_module(f"comfy_extras.nodes_{module}")


@pytest.fixture(scope="module")
def testbed() -> Playground:
    """A random SD 1.5."""
    return small_model("SD1.5")


@pytest.fixture(scope="module")
def other() -> Any:
    """Another MODEL to merge with, of the same kind."""
    return small_model("SD1.5", stored=lambda weights: {name: 1.1 * value for name, value in weights.items()}).model


@pytest.fixture
def acts(testbed: Playground) -> ErasedUNet:
    """An edit that acts while the model runs."""
    return acting(testbed, "spm")


@pytest.fixture
def in_weights(acts: ErasedUNet) -> ErasedUNet:
    """An edit of weights."""
    generator = torch.Generator().manual_seed(2)
    up, down = (torch.randn(shape, generator=generator) for shape in ((64, 1), (1, 768)))
    tensors = weight_edit({f"{LAYER}.lora_up.weight": up, f"{LAYER}.lora_down.weight": down})
    return ErasedUNet(tensors, type(acts.provenance)("esd", {}, (("circle", ""),), (), 0, "SD15"))


def patched(model: Any, *edits: ErasedUNet) -> Any:
    """The MODEL with these edits on it."""
    from concept_erasure.nodes import host

    for edit in edits:
        model = host.patched(model, edit, 20.0)
    return model


def drawn(testbed: Playground, model: Any) -> Tensor:
    """What KSampler makes of a prompt that says the concept."""
    import comfy.sample

    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    positive, negative = (
        testbed.clip.encode_from_tokens_scheduled(testbed.clip.tokenize(text)) for text in ("circle", "")
    )
    start = torch.zeros_like(noise)
    return comfy.sample.sample(model, noise, 1, 3.0, "euler", "normal", positive, negative, start, disable_pbar=True)


MERGES: dict[str, Merge] = {
    "simple": lambda one, two: nodes("model_merging").ModelMergeSimple().merge(one, two, 0.5)[0],
    "subtract": lambda one, two: nodes("model_merging").ModelSubtract().merge(one, two, 0.5)[0],
    "add": lambda one, two: nodes("model_merging").ModelAdd().merge(one, two)[0],
    "blocks": lambda one, two: (
        nodes("model_merging").ModelMergeBlocks().merge(one, two, input=0.5, middle=0.3, out=0.2)[0]
    ),
    "SD 1.5's": lambda one, two: (
        nodes("model_merging_model_specific").ModelMergeSD1().merge(one, two, **{"out.": 0.5})[0]
    ),
}


@pytest.mark.parametrize("name", MERGES)
def test_of_the_first_model_an_acting_edit_is_whole_and_of_the_second_it_is_lost(
    testbed, other, acts, caplog, name
) -> None:
    merge = MERGES[name]
    plain = drawn(testbed, merge(testbed.model, other))
    assert not caplog.records
    first = merge(patched(testbed.model, acts), other)
    assert caplog.text.count(f"{ACTS}whole: it acts on the merged MODEL too") == 1 and len(caplog.records) == 1
    assert not torch.equal(drawn(testbed, first), plain), "it is said to act"
    caplog.clear()
    second = merge(testbed.model, patched(other, acts))
    assert caplog.text.count(f"{ACTS}lost") == 1 and len(caplog.records) == 1 and "Apply Erased UNet" in caplog.text
    assert torch.equal(drawn(testbed, merge(testbed.model, other)), plain)
    assert torch.equal(drawn(testbed, second), plain), "it is said to be lost"


def test_every_merge_of_a_family_is_one_of_these() -> None:
    specific = nodes("model_merging_model_specific")
    made = {item for _, item in inspect.getmembers(specific, inspect.isclass) if hasattr(item, "merge")}
    assert len(made) > 5 and all(item.merge is nodes("model_merging").ModelMergeBlocks.merge for item in made)
    takes_models = [
        name
        for name, item in nodes("model_merging").NODE_CLASS_MAPPINGS.items()
        if any(value[0] == "MODEL" for value in item.INPUT_TYPES()["required"].values())
    ]
    tested = {
        "ModelMergeSimple",
        "ModelMergeSubtract",
        "ModelMergeAdd",
        "ModelMergeBlocks",
        "CheckpointSave",
        "ModelSave",
    }
    assert set(takes_models) == tested, "this ComfyUI has a merge that is not tested here"


def test_what_is_said_of_edits_of_weights_and_of_both(testbed, other, acts, in_weights, caplog) -> None:
    merge = MERGES["simple"]
    for models in ((patched(testbed.model, in_weights), other), (other, patched(testbed.model, in_weights))):
        caplog.clear()
        merge(*models)
        assert len(caplog.records) == 1 and MERGED in caplog.text and "acts while" not in caplog.text
    caplog.clear()
    merge(patched(testbed.model, in_weights, acts), other)
    assert len(caplog.records) == 1 and MERGED in caplog.text and f"{ACTS}whole" in caplog.text
    caplog.clear()
    with_a_lora = patched(testbed.model, acts)
    with_a_lora.add_patches({f"diffusion_model.{LAYER}.weight": ("diff", (torch.zeros(64, 768),))})
    compiled = patched(testbed.model, in_weights)
    compiled.add_wrapper_with_key(
        "apply_model", "torch.compile", lambda executor, *given, **named: executor(*given, **named)
    )
    assert not caplog.records, "a LoRA is no merge, and an edit of weights is compiled with them"


@pytest.fixture
def output(tmp_path: Path) -> Any:
    """ComfyUI's output folder, for this test one of its own."""
    import folder_paths

    before = folder_paths.get_output_directory()
    folder_paths.set_output_directory(str(tmp_path))
    yield tmp_path
    folder_paths.set_output_directory(before)


SAVES: dict[str, Callable[[Any], Any]] = {
    "checkpoint": lambda model: nodes("model_merging").CheckpointSave().save(model, None, None, "file"),
    "model": lambda model: nodes("model_merging").ModelSave().save(model, "file"),
    "video": lambda model: nodes("video_model").ImageOnlyCheckpointSave().save(model, None, None, "file"),
}


@pytest.mark.parametrize("name", SAVES)
def test_every_node_that_saves_says_that_an_acting_edit_is_not_in_the_file(testbed, acts, output, caplog, name) -> None:
    from safetensors.torch import load_file

    SAVES[name](testbed.model)
    assert not caplog.records
    for model in (patched(testbed.model, acts), patched(testbed.model, acts).clone().clone()):
        caplog.clear()
        SAVES[name](model)
        assert caplog.text.count(f"{ACTS}not in this file") == 1
    first, second, third = (load_file(path) for path in sorted(output.glob("file*")))
    assert first.keys() == second.keys() == third.keys()
    assert all(torch.equal(value, second[key]) for key, value in first.items())


def test_extracting_a_lora_says_what_it_holds(testbed, acts, in_weights, output, caplog) -> None:
    from safetensors.torch import load_file

    def extracted(model: Any) -> str:
        caplog.clear()
        nodes("lora_extract").LoraSave.execute("lora", 1, "standard", False, nodes("model_merging").ModelSubtract().merge(
            model, testbed.model, 1.0)[0])  # fmt: skip
        return caplog.text

    assert not extracted(testbed.model)
    assert f"{ACTS}not in the extracted LoRA" in extracted(patched(testbed.model, acts))
    assert "the LoRA holds the erasure of 'circle' only as nearly as its rank allows" in extracted(
        patched(testbed.model, in_weights)
    )
    *_, last = (load_file(path) for path in sorted(output.glob("lora*")))
    change = last[f"diffusion_model.{LAYER}.lora_up.weight"].abs().max()
    assert change > 0.1


def test_compiling_says_that_an_acting_edit_is_whole_and_an_old_torch_cannot(
    testbed, acts, monkeypatch, caplog
) -> None:
    caplog.clear()
    nodes("torch_compile").TorchCompileModel.execute(patched(testbed.model, acts), "cudagraphs")
    assert len(caplog.records) == 1 and f"{ACTS}whole, but wherever it acts the model runs uncompiled" in caplog.text
    monkeypatch.delattr(torch.compiler, "set_stance")
    with pytest.raises(RuntimeError, match=r"needs torch 2\.6 or newer"):
        nodes("torch_compile").TorchCompileModel.execute(patched(testbed.model, acts), "cudagraphs")
