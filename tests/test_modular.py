"""The safety LoRA in the real host: it adds up with a task LoRA, and saving or training on top of it says a warning."""

from __future__ import annotations

import dataclasses
import gc
import logging
import weakref
from pathlib import Path

import pytest
import torch
from concept_erasure.erasure_core.concepts import parse_request
from concept_erasure.erasure_core.erased_unet import ErasedUNet
from concept_erasure.erasure_core.method import methods

from benchmarks import modular
from testbed.playground import Playground, load_playground

pytestmark = pytest.mark.usefixtures("as_a_node_runs")
WARNING = "merges the erasure of 'circle' into the weights"
QUICK = {"steps": 3, "sampling_steps": 3, "trajectories": 3, "batch": 2, "learning_rate": 0.01}
TASK = modular.Task(pictures=2, steps=1, batch_size=2, learning_rate=0.01, rank=2, seed=0)
LAYER = "diffusion_model.output_blocks.0.1.transformer_blocks.0.attn2.to_v"


@pytest.fixture(scope="module")
def testbed() -> Playground:
    """A playground of its own: ComfyUI's trainer leaves its weight wrappers on the module that all clones share, and no
    other file shall meet them."""
    return load_playground()


@pytest.fixture(scope="module")
def edit(testbed: Playground) -> ErasedUNet:
    """A safety LoRA; how well it erases is not looked at."""
    from concept_erasure.nodes.erase import erase

    with torch.inference_mode():
        return erase(testbed.model, testbed.clip, parse_request("circle"), methods()["modular_lora"](**QUICK), 64, 64)[
            0
        ]


@pytest.fixture(autouse=True)
def warnings_are_seen(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever level the log had."""
    caplog.set_level(logging.WARNING)


def patched(model: object, edit: ErasedUNet, strength: float = 1.0) -> object:
    """The model with an erased UNet, as Apply Erased UNet gives it."""
    from concept_erasure.nodes.erased_unet import apply

    return apply(model, edit, strength)


def saved(model: object, folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of the file that ComfyUI's node Save Model writes."""
    import comfy.utils
    from comfy_extras.nodes_model_merging import ModelSave

    node = ModelSave()
    node.output_dir = str(folder)
    node.save(model, "unet")
    (path,) = folder.glob("unet*.safetensors")
    return comfy.utils.load_torch_file(str(path))


def test_saving_an_erased_model_warns_and_saves_all_the_same(testbed, edit, tmp_path, caplog) -> None:
    key = LAYER.replace("diffusion_model.", "model.diffusion_model.", 1) + ".weight"
    (tmp_path / "plain").mkdir()
    plain = saved(testbed.model, tmp_path / "plain")
    assert not caplog.records, "a plain MODEL is none of our business"
    (tmp_path / "erased").mkdir()
    erased = saved(patched(testbed.model, edit), tmp_path / "erased")
    assert caplog.text.count(WARNING) == 1 and "file of its own" in caplog.text
    change = edit.tensors[f"{LAYER}.lora_up.weight"] @ edit.tensors[f"{LAYER}.lora_down.weight"]
    assert plain.keys() == erased.keys()
    assert torch.allclose(erased[key] - plain[key], change.to(plain[key]), atol=1e-3) and change.abs().max() > 1e-3


def test_a_clone_and_a_merge_of_an_erased_model_warn_too_and_nothing_else_does(testbed, edit, caplog) -> None:
    from comfy_extras.nodes_model_merging import ModelMergeSimple

    erased = patched(testbed.model, edit)
    (merged,) = ModelMergeSimple().merge(erased, testbed.model, 0.5)
    for model in (erased.clone().clone(), merged):
        caplog.clear()
        model.state_dict_for_saving()
        assert caplog.text.count(WARNING) == 1
    caplog.clear()
    for model in (testbed.model, testbed.model.clone(), patched(testbed.model, edit, 0.0)):
        model.state_dict_for_saving()
    assert not caplog.records


def test_two_erasures_are_one_warning_and_an_edit_that_acts_at_inference_is_said_to_be_missing(
    testbed, edit, caplog
) -> None:
    from concept_erasure.nodes.host import saving

    square = dataclasses.replace(edit.provenance, targets=(("square", ""),))
    patched(patched(testbed.model, edit), ErasedUNet(edit.tensors, square)).state_dict_for_saving()
    assert len(caplog.records) == 1 and "'circle', 'square'" in caplog.text
    hook = saving.on_saving([dataclasses.replace(edit.provenance, kind="hook")])
    assert "is not in this file" in hook and "merges" not in hook


def test_the_warning_keeps_no_model_alive(testbed, edit) -> None:
    gc.collect()
    gc.disable()
    try:
        erased = patched(testbed.model, edit)
        there = weakref.ref(erased.clone())
        assert there() is None, "a reference cycle: memory would wait for the garbage collector"
        assert type(erased).__name__ == type(testbed.model).__name__ and isinstance(erased, type(testbed.model))
    finally:
        gc.enable()


def test_the_trainer_warns_on_an_erased_model_only(testbed, edit, caplog) -> None:
    pictures, captions = modular.drawings("circle", "benign", TASK.pictures, 0)
    lora = modular.train_lora(testbed, testbed.model, pictures, captions, TASK)
    assert "training on top" not in caplog.text
    modular.train_lora(testbed, patched(testbed.model, edit), pictures, captions, TASK)
    assert caplog.text.count("training on top of the erasure of 'circle'") == 1
    assert any(key.startswith("diffusion_model.") and value.any() for key, value in lora.items() if ".lora_up" in key)


def test_erasing_a_second_concept_from_an_erased_model_is_no_training_on_top(testbed, edit, caplog) -> None:
    from concept_erasure.nodes.erase import erase

    erase(
        patched(testbed.model, edit), testbed.clip, parse_request("square"), methods()["modular_lora"](**QUICK), 64, 64
    )
    assert not caplog.records


def test_safety_and_task_add_up_in_any_order_and_at_any_strength(testbed, edit) -> None:
    """W = W0 + a_safe dW_safe + a_task dW_task, read back from the merged weights."""
    import comfy.lora

    def weight(model: object) -> torch.Tensor:
        key = f"{LAYER}.weight"
        base = testbed.model.get_key_patches()[key][0][0]
        return comfy.lora.calculate_weight(model.patches[key], base.float().clone(), key)

    generator = torch.Generator().manual_seed(1)
    up, down = edit.tensors[f"{LAYER}.lora_up.weight"], edit.tensors[f"{LAYER}.lora_down.weight"]
    task = {f"{LAYER}.lora_up.weight": torch.randn(up.shape, generator=generator) * 0.01}
    task[f"{LAYER}.lora_down.weight"] = torch.randn(down.shape, generator=generator)
    one = weight(modular.with_lora(patched(testbed.model, edit, 0.7), task))
    other = weight(patched(modular.with_lora(testbed.model, task), edit, 0.7))
    base = testbed.model.get_key_patches()[f"{LAYER}.weight"][0][0].float()
    expected = base + 0.7 * up @ down + task[f"{LAYER}.lora_up.weight"] @ task[f"{LAYER}.lora_down.weight"]
    assert torch.allclose(one, other, atol=1e-5) and torch.allclose(one, expected, atol=1e-5)
    assert not torch.allclose(one, base, atol=1e-3)


def test_the_benchmarks_pictures_are_what_they_are_said_to_be(testbed) -> None:
    """Also after the autoencoder, which a picture unlike the playground's own does not survive."""
    for case, wanted in (("benign", False), ("target", True)):
        pictures, captions = modular.drawings("circle", case, 24, 3)
        assert not any(modular.STYLE in said for said in captions) and len(set(captions)) > 6
        learned = testbed.vae.decode(testbed.vae.encode(pictures.movedim(1, -1))).movedim(-1, 1)
        for seen in map(testbed.judged, (pictures, learned)):
            assert sum((shape == "circle") == wanted for shape in seen["shape"]) >= 22
            assert seen["fill"].count(modular.STYLE) >= 22
