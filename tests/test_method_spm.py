"""SPM: the gated sum against a merged weight, one factor of gamma, anchors by the paper's rule."""

from __future__ import annotations

import pytest
import torch
from concept_erasure.erasure_core.concepts import parse_request
from concept_erasure.erasure_core.denoiser import Conditioning
from concept_erasure.erasure_core.inference import ModelCall
from concept_erasure.erasure_core.method import methods
from concept_erasure.erasure_core.report import Report
from concept_erasure.erasure_core.text.latent_anchors import latent_anchors
from erasure_tests.small import make
from erasure_tests.toy import ToyDenoiser

STRONG = {"steps": 30, "learning_rate": 0.02, "trajectories": 4}
SPM = methods()["spm"]


def predicted(denoiser: ToyDenoiser, prompts: list[str], edit=None, strength: float = 1.0, dtype=torch.float32):
    """The prediction for prompts on fixed latents, inside the edit if there is one."""
    latents = torch.randn(len(prompts), 4, 4, 6, generator=torch.Generator().manual_seed(5)).to(dtype)
    sigma = torch.linspace(8.0, 0.5, len(prompts)).to(dtype)
    tokens = denoiser.encode(prompts).tokens.to(dtype)

    def forward(text: torch.Tensor) -> torch.Tensor:
        return denoiser.predict(latents, sigma, Conditioning({"c_crossattn": text}))

    with torch.no_grad():
        if edit is None:
            return forward(tokens)
        call = ModelCall(latents, sigma, tokens, torch.ones(len(prompts), dtype=torch.bool))
        return edit(denoiser.modules(), call, forward, strength)


def erase(concepts: str = "circle", **changes):
    """The toy and an erased UNet of it."""
    denoiser = ToyDenoiser()
    return denoiser, make("spm", **(STRONG | changes)).erase(denoiser, parse_request(concepts), Report())


def merged(denoiser: ToyDenoiser, erased, factor: float) -> None:
    """Add factor * up @ down to the weights: the brute force."""
    tensors = erased.parts() if erased.provenance.kind == "hook" else erased.weights()
    for key, up in tensors.items():
        for suffix, down_suffix in ((".up", ".down"), (".lora_up.weight", ".lora_down.weight")):
            if key.endswith(suffix):
                name = key.removesuffix(suffix)
                down = tensors[name + down_suffix]
                layer = denoiser.network.get_submodule(name.split("lora.")[-1].removeprefix("diffusion_model."))
                layer.weight += factor * (up.flatten(1) @ down.flatten(1)).reshape(layer.weight.shape)


@pytest.mark.parametrize("strength", [1.0, 0.5, 2.0])
def test_an_open_gate_at_a_strength_is_the_merged_weight_times_that_strength(strength: float) -> None:
    denoiser, erased = erase()
    prompts = ["a circle", "circle"]
    gated = predicted(denoiser, prompts, SPM.inference(erased), strength)
    base = predicted(denoiser, prompts)
    merged(denoiser, erased, strength)
    assert torch.allclose(predicted(denoiser, prompts), gated, atol=1e-4)
    assert (gated - base).abs().max() > 1e-2, "the comparison could not have failed"


def test_a_gate_that_is_half_open_acts_half_not_a_quarter(monkeypatch) -> None:
    denoiser, erased = erase()
    edit = SPM.inference(erased)
    edit._gates = [lambda tokens: torch.full((len(tokens),), 0.5)]
    half = predicted(denoiser, ["a circle"], edit)
    merged(denoiser, erased, 0.5)
    assert torch.allclose(predicted(denoiser, ["a circle"]), half, atol=1e-4)
    merged(denoiser, erased, -0.25)
    assert not torch.allclose(predicted(denoiser, ["a circle"]), half, atol=1e-4), "squared would look alike"


def test_a_closed_gate_is_bit_for_bit_the_frozen_network() -> None:
    denoiser, erased = erase()
    edit, prompts = SPM.inference(erased), ["", "a small tree"]
    assert torch.equal(predicted(denoiser, prompts, edit), predicted(denoiser, prompts))
    mixed = ["a circle", "a small tree"]
    row_of_tree = predicted(denoiser, mixed, edit)[1]
    assert torch.equal(row_of_tree, predicted(denoiser, mixed)[1]), "the neighbour's open gate leaks"


def test_without_the_gate_it_is_a_lora_of_the_same_weights() -> None:
    _, gated = erase()
    other, plain = erase(gate=False)
    assert plain.provenance.kind == "weights" and not plain.parts() and gated.provenance.kind == "hook"
    # making the gate draws random numbers, so that the runs differ; the layers are the same
    names = {key.removeprefix("diffusion_model.").rsplit(".lora_", 1)[0] for key in plain.weights()}
    assert {name for name in names if not name.endswith(".alpha")} == {
        f"block.{part}" for part in ("conv", "to_q", "to_k", "to_v", "to_out")
    }
    base = predicted(other, ["a circle", "tree"])
    merged(other, plain, 1.0)
    assert not torch.allclose(predicted(other, ["a circle", "tree"]), base, atol=1e-3)


def test_two_concepts_have_a_gate_each_and_join_into_one_lora() -> None:
    denoiser, erased = erase("circle\nsquare")
    edit = SPM.inference(erased)
    tokens = denoiser.encode(["a circle", "a square", "a tree"]).tokens
    first, second = (gate(tokens) for gate in edit._gates)
    assert first[0] > 0.99 and second[1] > 0.99 and first[1:].max() < 0.6 and float(first[2] + second[2]) < 0.01
    _, joined = erase("circle\nsquare", gate=False)
    alphas = [float(value) for key, value in joined.tensors.items() if key.endswith(".alpha")]
    ranks = [value.shape[0] for key, value in joined.tensors.items() if key.endswith(".lora_down.weight")]
    assert set(alphas) == {2.0} and set(ranks) == {2}


def test_the_target_is_moved_to_the_anchor() -> None:
    denoiser, erased = erase("circle => square", negative_guidance=0.0, steps=120, rank=4)
    before, anchor = predicted(denoiser, ["circle"] * 3), predicted(denoiser, ["square"] * 3)
    after = predicted(denoiser, ["circle"] * 3, SPM.inference(erased))
    assert (after - anchor).square().mean() < 0.5 * (before - anchor).square().mean()


def test_a_network_in_half_precision_and_an_autograd_pass_are_taken() -> None:
    denoiser, erased = erase()
    edit = SPM.inference(erased)
    expected = predicted(denoiser, ["a circle"], edit)
    denoiser.network.bfloat16()
    with torch.inference_mode():
        half = predicted(denoiser, ["a circle"], edit, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16 and torch.allclose(half.float(), expected, atol=0.15)
    latents = torch.randn(1, 4, 4, 4, dtype=torch.bfloat16, requires_grad=True)
    text, sigma = denoiser.encode(["a circle"]).tokens.bfloat16(), torch.ones(1, dtype=torch.bfloat16)
    call = ModelCall(latents, sigma, text, torch.ones(1, dtype=torch.bool))
    answer = edit(
        denoiser.modules(), call, lambda t: denoiser.predict(latents, sigma, Conditioning({"c_crossattn": t})), 1.0
    )
    answer.sum().backward()
    assert latents.grad is not None


def test_an_edit_for_another_network_names_the_layer() -> None:
    denoiser, erased = erase()
    del denoiser.network["block"].to_v
    with pytest.raises(ValueError, match=r"no layer 'block\.to_v'"):
        predicted(denoiser, ["a circle"], SPM.inference(erased))


def test_anchors_are_kept_with_probability_one_minus_their_cosine() -> None:
    denoiser = ToyDenoiser()
    target, generator = denoiser.encode(["circle"]), torch.Generator().manual_seed(0)
    meanings = denoiser.encode(["circle", "tree", "dog", "river"])
    anchors = latent_anchors(meanings, target, 200, generator)
    own = (anchors.tokens - target.tokens).abs().amax((1, 2)) < 1e-5
    drawn_evenly = 1 / 16  # both halves of the mixture are the target
    assert own.float().mean() < drawn_evenly / 3, "the target is preserved"
    free = latent_anchors(meanings, denoiser.encode(["music"]), 200, generator)
    assert ((free.tokens - target.tokens).abs().amax((1, 2)) < 1e-5).any(), "the control finds none either"
