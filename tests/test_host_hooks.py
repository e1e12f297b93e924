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

from testbed.playground import Playground

pytestmark = pytest.mark.usefixtures("as_a_node_runs", "few_words")
METHODS = methods()
HOOKS = [name for name, made in METHODS.items() if made.inference.__func__ is not ErasureMethod.inference.__func__]
PROMPTS = ("a red circle", "a solid blue square", "circle")
_MADE: dict[tuple[str, str], ErasedUNet] = {}


def made(testbed: Playground, name: str, concepts: str = "circle") -> ErasedUNet:
    """A hook edit by the method, made once with tiny settings; skips, saying why, where this request gives none."""
    from concept_erasure.nodes.erase import erase

    if (name, concepts) not in _MADE:
        _MADE[name, concepts], _ = erase(testbed.model, testbed.clip, parse_request(concepts), make(name), 64, 64)
    erased = _MADE[name, concepts]
    hook = erased if erased.provenance.kind == "hook" else erased.key
    if hook is None:
        pytest.skip(f"{name} makes an edit of weights only with these settings")
    return hook


def patched(testbed: Playground, *erased: ErasedUNet, strength: float = 1.0) -> Any:
    """The base model with edits one after another."""
    from concept_erasure.nodes import host

    model = testbed.model
    for edit in erased:
        model = host.patched(model, edit, strength)
    return model


def latents(
    testbed: Playground,
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
    positive = [[torch.cat([testbed.text(prompt) for prompt in prompts]), dict(extra)]]
    return comfy.sample.sample(
        model, noise, 3, cfg, sampler, "normal", positive, [[testbed.text(""), dict(extra)]], start,
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
def test_absent_it_leaves_nothing_and_at_strength_zero_it_does_nothing(testbed: Playground, name: str) -> None:
    from concept_erasure.nodes.erased_unet import apply

    before = latents(testbed, testbed.model)
    erased = made(testbed, name)
    assert not torch.equal(latents(testbed, patched(testbed, erased)), before), "the edit does nothing"
    assert torch.equal(latents(testbed, testbed.model), before), "the patched clone leaks into the base model"
    assert torch.equal(latents(testbed, apply(testbed.model, erased, 0.0)), before)
    modules = testbed.model.model.diffusion_model.modules()
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
def test_it_acts_however_the_model_is_sampled(testbed: Playground, name: str, how: dict) -> None:
    base, edited = (latents(testbed, model, **how) for model in (testbed.model, patched(testbed, made(testbed, name))))
    assert edited.shape == base.shape and bool(edited.isfinite().all())
    assert not torch.equal(edited[0], base[0])
    weak = latents(testbed, patched(testbed, made(testbed, name), strength=0.01), **how)
    assert (weak[0] - base[0]).abs().max() < (edited[0] - base[0]).abs().max(), "strength does not scale the edit"


@pytest.mark.parametrize("name", HOOKS)
def test_the_pictures_of_a_batch_do_not_depend_on_one_another(testbed: Playground, name: str) -> None:
    noise = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(9))
    model = patched(testbed, made(testbed, name))
    together = latents(testbed, model, noise=noise)
    for row, prompt in enumerate(PROMPTS):
        alone = latents(testbed, model, (prompt,), noise=noise[row : row + 1])
        assert torch.allclose(alone, together[row : row + 1], atol=2e-2), prompt


@pytest.mark.parametrize("name", HOOKS)
def test_a_users_lora_in_the_chain_acts_too_before_or_after(testbed: Playground, name: str) -> None:
    from concept_erasure.nodes.erase import erase

    lora, _ = erase(testbed.model, testbed.clip, parse_request("square"), make("esd", learning_rate=0.01), 64, 64)
    hook = made(testbed, name)
    both = latents(testbed, patched(testbed, lora, hook))
    assert torch.equal(both, latents(testbed, patched(testbed, hook, lora)))
    for other in (patched(testbed, lora), patched(testbed, hook)):
        assert not torch.equal(both, latents(testbed, other))


@pytest.mark.parametrize("name", HOOKS)
def test_two_of_them_stack(testbed: Playground, name: str) -> None:
    first, second = made(testbed, name), made(testbed, name, "square")
    both = latents(testbed, patched(testbed, first, second))
    assert bool(both.isfinite().all())
    for alone in (first, second):
        assert not torch.equal(both, latents(testbed, patched(testbed, alone)))
    # weak edits hardly meet each other, so their order hardly counts
    weak = latents(testbed, patched(testbed, first, second, strength=0.02))
    turned = latents(testbed, patched(testbed, second, first, strength=0.02))
    assert (weak - turned).abs().max() < 0.3 * (weak - latents(testbed, testbed.model)).abs().max()


@pytest.mark.parametrize("name", HOOKS)
def test_a_control_net_steers_the_edited_model_as_it_does_the_base(testbed: Playground, name: str) -> None:
    """Also where the edit runs the model twice a call, and the second run is the one that counts."""
    edited = patched(testbed, made(testbed, name), strength=0.01)
    effects = []
    for model in (testbed.model, edited):
        effects.append(latents(testbed, model, control=control_net()) - latents(testbed, model))
    assert effects[0].abs().max() > 0.05, "the stand-in does nothing"
    assert (effects[1] - effects[0]).abs().max() < 0.25 * effects[0].abs().max()


@pytest.mark.parametrize("name", HOOKS)
def test_it_can_be_trained_through(testbed: Playground, name: str) -> None:
    """Erasing from a model that already carries a hook edit: its tensors must not be those of inference mode."""
    from concept_erasure.nodes.erase import erase

    model = patched(testbed, made(testbed, name))
    latents(testbed, model)
    erased, _ = erase(model, testbed.clip, parse_request("circle => square"), make("esd"), 64, 64)
    assert not erased.is_zero() and dataclasses.astuple(erased.provenance)
