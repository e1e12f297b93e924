"""Every family of the table in the real host, on a random model of its layout: `make test-families`."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from concept_erasure.erasure_core.erased_unet import DOWN, UP, ErasedUNet, load_erased_unet, save_erased_unet
from concept_erasure.erasure_core.families import FAMILIES
from concept_erasure.erasure_core.memory.checkpointing import by_block, wrapped
from concept_erasure.erasure_core.memory.planning import Counter
from concept_erasure.erasure_core.method import methods
from concept_erasure.erasure_core.training.deltas import Deltas
from erasure_tests.families import small_model
from erasure_tests.layouts import LAYOUTS, Layout, expanded
from erasure_tests.runs import base_hash, run

from devtools import family_docs
from testbed.playground import Playground

pytestmark = pytest.mark.usefixtures("as_a_node_runs", "few_words")

TINY = {"steps": 2, "sampling_steps": 2, "retain_sampling_steps": 2, "trajectories": 1, "batch": 1, "candidates": 2}
TINY |= {"preserved": 1, "scan_width": 1, "retain_trajectories": 1, "sentences": 2, "kept_sentences": 0}
FUSED_KERNELS = {"CosmosT2IPredict2", "Anima", "ErnieImage", "JoyImage"}
READ_ALONE = {"SD15", "SD20", "SDXL", "WAN21_T2V", "WAN21_I2V", "WAN22_T2V", "CosmosT2IPredict2", "Anima"}
"""The families in which text is read by cross-attention, so that a closed form holds."""


@dataclasses.dataclass(frozen=True)
class Small:
    """A layout and the random model of it."""

    layout: Layout
    testbed: Playground
    hash: str


@pytest.fixture(scope="module", params=list(LAYOUTS))
def small(request) -> Small:
    layout, testbed = LAYOUTS[request.param], small_model(request.param)
    return Small(layout, testbed, base_hash(testbed))


def answer(small: Small, model: object) -> torch.Tensor:
    """What a model predicts for the target."""
    from concept_erasure.nodes import host

    with host.open_session(model, small.testbed.clip, 64, 64) as denoiser, torch.no_grad():
        noisy = torch.randn(denoiser.empty_latents(1).shape, generator=torch.Generator().manual_seed(2))
        return denoiser.predict(noisy, denoiser.sigmas(4)[2:3], denoiser.encode(["circle"]))


def test_every_family_of_the_table_has_a_model_here_or_is_said_not_to_be_tried() -> None:
    assert set(FAMILIES) - {layout.family for layout in LAYOUTS.values()} == set(family_docs.UNTRIED)


def test_the_detection_and_the_groups(small: Small) -> None:
    from concept_erasure.nodes import host

    layout = small.layout
    assert host.family_of(small.testbed.model) == layout.family
    kv, text = expanded(layout.kv), expanded((*layout.kv, *layout.text))
    with host.open_session(small.testbed.model, small.testbed.clip, 64, 64) as denoiser:
        kinds = (torch.nn.Linear, torch.nn.Conv2d, torch.nn.Conv3d)
        everything = {name for name, module in denoiser.modules().items() if isinstance(module, kinds)}
        every = everything - expanded(layout.fixed)
        expected = {
            "cross_attention_kv": kv,
            "cross_attention": text,
            "self_attention": expanded(layout.picture),
            "non_cross_attention": every - text,
            "all": every,
            "cross_attention_kv_pooled": kv | expanded(layout.pooled) if layout.pooled else set(),
        }
        assert expanded(layout.fixed) <= everything and text <= everything
        for group, names in expected.items():
            if names:
                assert set(denoiser.layers(group)) == names, group
            else:
                with pytest.raises(
                    ValueError, match=f"has no layer of the group '{group}'; choose another .*, of .*all"
                ):
                    denoiser.layers(group)


def check_edit(small: Small, erased: ErasedUNet, folder: Path) -> None:
    """The edit moves the keys and values alone, comes back from its file through both loaders, and spares the base."""
    import comfy.sd
    import comfy.utils
    from concept_erasure.nodes.erased_unet import apply

    assert set(erased.layers()) == expanded(small.layout.kv)
    for name, change in erased.layers().items():
        weight = small.testbed.model.model.diffusion_model.get_submodule(name).weight
        if UP in change and FAMILIES[small.layout.family].fused:  # queries are the first rows, as many as columns
            assert change[UP].shape[0] == weight.shape[0] and change[DOWN].shape[1] == weight.shape[1]
            assert not change[UP][: weight.shape[1]].any() and change[UP][weight.shape[1] :].any()
    base = answer(small, small.testbed.model)
    save_erased_unet(erased, folder / "edit.safetensors")
    edited = apply(small.testbed.model, load_erased_unet(folder / "edit.safetensors"), 1.0)
    assert set(edited.patches) == {f"diffusion_model.{layer}.weight" for layer in erased.layers()}
    ours = answer(small, edited)
    assert not torch.equal(ours, base), "the edit changes nothing"
    lora = comfy.utils.load_torch_file(str(folder / "edit.safetensors"))
    stock, _ = comfy.sd.load_lora_for_models(small.testbed.model, None, lora, 1.0, 0)
    assert torch.equal(answer(small, stock), ours)
    assert torch.equal(answer(small, small.testbed.model), base) and base_hash(small.testbed) == small.hash


@pytest.mark.parametrize("name", ["esd", "ap"])
def test_a_trained_method(small: Small, name: str, tmp_path: Path) -> None:
    if small.layout.family in FUSED_KERNELS:
        with pytest.raises(ValueError, match=f"{name} does not work on {small.layout.family} models: it needs gradients.*"
                           "fused rotary kernel of this ComfyUI has no backward"):  # fmt: skip
            run(small.testbed, name, **TINY)
        assert base_hash(small.testbed) == small.hash
        return
    erased, _ = run(small.testbed, name, learning_rate=0.01, **TINY)
    check_edit(small, erased, tmp_path)


def copying(forward):
    """A block that is given copies of its tensors, as checkpointing gives them, and is not computed again."""

    def call(*given, **named):
        copies = [value.clone() if torch.is_tensor(value) else value for value in (*given, *named.values())]
        return forward(*copies[: len(given)], **dict(zip(named, copies[len(given) :], strict=True)))

    return call


def test_checkpointing_by_block_changes_no_gradient(small: Small) -> None:
    """Bit for bit, against blocks that are given copies of their tensors. Against the plain network only to rounding: what
    is read in several places (a UNet's skips) sums their gradients in another order."""
    from concept_erasure.nodes import host

    with host.open_session(small.testbed.model, small.testbed.clip, 64, 64) as denoiser:
        if denoiser.lacks("gradients"):
            pytest.skip("no gradients at all")
        denoiser._precision = nullcontext  # in bf16 another order of sums is no small matter
        deltas = Deltas(denoiser.layers("all"), 2, torch.Generator().manual_seed(0))
        random = torch.Generator().manual_seed(3)
        for parameter in deltas.parameters():
            parameter.data += 0.02 * torch.randn(parameter.shape, generator=random)
        noisy = torch.randn(denoiser.empty_latents(2).shape, generator=random)
        said, blocks = denoiser.encode(["circle", "red square"]), denoiser.blocks("checkpointed").values()

        def gradients(around) -> tuple[list[torch.Tensor], int]:
            saved = Counter()

            def count(tensor: torch.Tensor) -> torch.Tensor:
                saved.add(tensor)
                return tensor

            with deltas.attached():
                with around, torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
                    predicted = denoiser.predict(noisy, denoiser.sigmas(4)[1:3], said)
                found = torch.autograd.grad(predicted.square().mean(), deltas.parameters(), materialize_grads=True)
            return list(found), saved.total()

        plain, held = gradients(nullcontext())
        again, between = gradients(by_block(blocks))
        copied, _ = gradients(wrapped(blocks, copying))
    assert all(torch.equal(one, other) for one, other in zip(again, copied, strict=True))
    for one, other in zip(again, plain, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-4 * float(other.abs().max()))
    assert sum(bool(one.any()) for one in again) > 0.8 * len(again), "there are hardly gradients to compare"
    # much of so small a network as Flux.2's lies outside of its blocks
    assert held > (8 if FAMILIES[small.layout.family].is_unet else 1.5) * between, "checkpointing holds hardly less"
    assert base_hash(small.testbed) == small.hash


def test_a_closed_form(small: Small, tmp_path: Path) -> None:
    if small.layout.family not in READ_ALONE:
        with pytest.raises(ValueError, match=r"uce does not work on .* attend to each other in one attention"):
            run(small.testbed, "uce", **TINY)
        assert base_hash(small.testbed) == small.hash
        return
    erased, _ = run(small.testbed, "uce", vocabulary="none", **TINY)
    check_edit(small, erased, tmp_path)


ONE_OF_A_KIND = ("SD1.5", "Flux.1 dev", "Wan 2.1", "Cosmos-Predict2")
"""A UNet, fused matrices in joint attention, text that a module reads first, and no gradients: what a method can meet."""


def is_refused(layout: Layout, name: str) -> bool:
    """Whether the family lacks what the method needs."""
    family = FAMILIES[layout.family]
    return not {*family.lacks, *family.may_lack}.isdisjoint(methods()[name].needs)


def pairs() -> Iterator[Any]:
    """Every layout with every other method. Those that no kind of network and no refusal sets apart are slow together."""
    for layout, name in itertools.product(LAYOUTS, sorted(set(methods()) - {"esd", "ap", "uce"})):
        quick = layout in ONE_OF_A_KIND or is_refused(LAYOUTS[layout], name)
        yield pytest.param(layout, name, marks=() if quick else pytest.mark.slow)


@pytest.mark.parametrize(("small", "name"), pairs(), indirect=["small"])
def test_every_other_method_holds_or_is_refused(small: Small, name: str) -> None:
    if is_refused(small.layout, name):
        with pytest.raises(ValueError, match=rf"{name} does not work on .* models: it needs .*, and .*The table of"):
            run(small.testbed, name, **TINY)
    else:
        erased, _ = run(small.testbed, name, **TINY)
        assert not erased.is_zero() and erased.provenance.family == small.layout.family
    assert base_hash(small.testbed) == small.hash
