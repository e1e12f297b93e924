"""Edits that act while the model runs, in the real host: with whatever else a user's workflow puts around the model."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from concept_erasure.erasure_core.concepts import parse_request
from concept_erasure.erasure_core.erased_unet import ErasedUNet
from concept_erasure.erasure_core.method import ErasureMethod, methods
from erasure_tests.small import make

from benchmarks.playground import Playground

pytestmark = pytest.mark.usefixtures("as_a_node_runs", "few_words")
METHODS = methods()
HOOKS = [name for name, made in METHODS.items() if made.inference.__func__ is not ErasureMethod.inference.__func__]
PROMPTS = ("a red circle", "a solid blue square", "circle")
_MADE: dict[tuple[str, str], ErasedUNet] = {}


def made(bed: Playground, name: str, concepts: str = "circle") -> ErasedUNet:
    """A hook edit by the method, made once with tiny settings; skips, saying why, where this request gives none."""
    from concept_erasure.nodes.erase import erase

    if (name, concepts) not in _MADE:
        _MADE[name, concepts], _ = erase(bed.model, bed.clip, parse_request(concepts), make(name), 64, 64)
    erased = _MADE[name, concepts]
    hook = erased if erased.provenance.kind == "hook" else erased.key
    if hook is None:
        pytest.skip(f"{name} makes an edit of weights only with these settings")
    return hook


def patched(bed: Playground, *erased: ErasedUNet, strength: float = 1.0) -> Any:
    """The base model with edits one after another."""
    from concept_erasure.nodes import host

    model = bed.model
    for edit in erased:
        model = host.patched(model, edit, strength)
    return model


def latents(
    bed: Playground,
    model: Any,
    prompts: tuple[str, ...] = PROMPTS,
    *,
    cfg: float = 3.0,
    sampler: str = "euler",
    size: tuple[int, int] = (8, 8),
    denoise: float = 1.0,
    noise: torch.Tensor | None = None,
    control: Any = None,
) -> torch.Tensor:
    """What a model samples, exactly (no autocast)."""
    import comfy.sample

    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(len(prompts), 4, *size, generator=generator) if noise is None else noise
    start = torch.zeros_like(noise) if denoise == 1.0 else torch.randn(noise.shape, generator=generator)
    extra = {} if control is None else {"control": control, "control_apply_to_uncond": True}
    positive = [[torch.cat([bed.text(prompt) for prompt in prompts]), dict(extra)]]
    return comfy.sample.sample(
        model, noise, 3, cfg, sampler, "normal", positive, [[bed.text(""), dict(extra)]], start,
        denoise=denoise, disable_pbar=True, seed=3,
    )  # fmt: skip


def control_net() -> Any:
    """A stand-in for a ControlNet: constant residuals on both skips and in the middle."""
    from comfy.controlnet import ControlBase

    class Constant(ControlBase):
        def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
            residual = 0.3 * torch.ones(x_noisy.shape[0], 320, *x_noisy.shape[2:])
            return {"input": [], "middle": [residual.clone()], "output": [residual.clone(), residual.clone()]}

        def copy(self):
            return self

    return Constant()


@pytest.mark.parametrize("name", HOOKS)
def test_absent_it_leaves_nothing_and_at_strength_zero_it_does_nothing(bed: Playground, name: str) -> None:
    from concept_erasure.nodes.erased_unet import apply

    before = latents(bed, bed.model)
    erased = made(bed, name)
    assert not torch.equal(latents(bed, patched(bed, erased)), before), "the edit does nothing"
    assert torch.equal(latents(bed, bed.model), before), "the patched clone leaks into the base model"
    assert torch.equal(latents(bed, apply(bed.model, erased, 0.0)), before)
    modules = bed.model.model.diffusion_model.modules()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in modules)


@pytest.mark.parametrize("name", HOOKS)
@pytest.mark.parametrize(
    "how",
    [
        {"cfg": 1.0},
        {"cfg": 3.0},
        {"sampler": "heun"},
        {"size": (8, 12)},
        {"denoise": 0.5},
        {"prompts": ("a red circle",)},
    ],
    ids=str,
)
def test_it_acts_however_the_model_is_sampled(bed: Playground, name: str, how: dict) -> None:
    base, edited = (latents(bed, model, **how) for model in (bed.model, patched(bed, made(bed, name))))
    assert edited.shape == base.shape and bool(edited.isfinite().all())
    assert not torch.equal(edited[0], base[0])
    weak = latents(bed, patched(bed, made(bed, name), strength=0.01), **how)
    assert (weak[0] - base[0]).abs().max() < (edited[0] - base[0]).abs().max(), "strength does not scale the edit"


@pytest.mark.parametrize("name", HOOKS)
def test_the_pictures_of_a_batch_do_not_depend_on_one_another(bed: Playground, name: str) -> None:
    noise = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(9))
    model = patched(bed, made(bed, name))
    together = latents(bed, model, noise=noise)
    for row, prompt in enumerate(PROMPTS):
        alone = latents(bed, model, (prompt,), noise=noise[row : row + 1])
        assert torch.allclose(alone, together[row : row + 1], atol=2e-2), prompt


@pytest.mark.parametrize("name", HOOKS)
def test_a_users_lora_in_the_chain_acts_too_before_or_after(bed: Playground, name: str) -> None:
    from concept_erasure.nodes.erase import erase

    lora, _ = erase(bed.model, bed.clip, parse_request("square"), make("esd", learning_rate=0.01), 64, 64)
    hook = made(bed, name)
    both = latents(bed, patched(bed, lora, hook))
    assert torch.equal(both, latents(bed, patched(bed, hook, lora)))
    for other in (patched(bed, lora), patched(bed, hook)):
        assert not torch.equal(both, latents(bed, other))


@pytest.mark.parametrize("name", HOOKS)
def test_two_of_them_stack(bed: Playground, name: str) -> None:
    first, second = made(bed, name), made(bed, name, "square")
    both = latents(bed, patched(bed, first, second))
    assert bool(both.isfinite().all())
    for alone in (first, second):
        assert not torch.equal(both, latents(bed, patched(bed, alone)))
    # weak edits hardly meet each other, so their order hardly counts
    weak = latents(bed, patched(bed, first, second, strength=0.02))
    turned = latents(bed, patched(bed, second, first, strength=0.02))
    assert (weak - turned).abs().max() < 0.3 * (weak - latents(bed, bed.model)).abs().max()


@pytest.mark.parametrize("name", HOOKS)
def test_a_control_net_steers_the_edited_model_as_it_does_the_base(bed: Playground, name: str) -> None:
    """Also where the edit runs the model twice a call, and the second run is the one that counts."""
    edited = patched(bed, made(bed, name), strength=0.01)
    effects = []
    for model in (bed.model, edited):
        effects.append(latents(bed, model, control=control_net()) - latents(bed, model))
    assert effects[0].abs().max() > 0.05, "the stand-in does nothing"
    assert (effects[1] - effects[0]).abs().max() < 0.25 * effects[0].abs().max()


@pytest.mark.parametrize("name", HOOKS)
def test_it_can_be_trained_through(bed: Playground, name: str) -> None:
    """Erasing from a model that already carries a hook edit: its tensors must not be those of inference mode."""
    from concept_erasure.nodes.erase import erase

    model = patched(bed, made(bed, name))
    latents(bed, model)
    erased, _ = erase(model, bed.clip, parse_request("circle => square"), make("esd"), 64, 64)
    assert not erased.is_zero() and dataclasses.astuple(erased.provenance)
