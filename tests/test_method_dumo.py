"""DuMo: residuals against brute force, scales by noise level, stacking, and what a side pass must not do."""

from __future__ import annotations

import pytest
import torch
from concept_erasure.erasure_core.concepts import parse_request
from concept_erasure.erasure_core.denoiser import Conditioning
from concept_erasure.erasure_core.hooks.side_encoder import bin_edges, scales_at
from concept_erasure.erasure_core.hooks.skips import added_to_skips, skip_features
from concept_erasure.erasure_core.inference import ModelCall
from concept_erasure.erasure_core.method import methods
from concept_erasure.erasure_core.report import Report
from erasure_tests.small import make
from erasure_tests.toy import ToyDenoiser

STRONG = {"steps": 40, "learning_rate": 0.02, "trajectories": 4, "time_bins": 2}
DUMO = methods()["dumo"]


def call_of(denoiser: ToyDenoiser, prompts: list[str], dtype=torch.float32) -> ModelCall:
    """A call on fixed latents."""
    latents = torch.randn(len(prompts), 4, 4, 6, generator=torch.Generator().manual_seed(5)).to(dtype)
    sigma = torch.tensor([8.0, 6.0, 1.0, 0.5])[: len(prompts)].to(dtype)
    tokens = denoiser.encode(prompts).tokens.to(dtype)
    return ModelCall(latents, sigma, tokens, torch.ones(len(prompts), dtype=torch.bool))


def network(denoiser: ToyDenoiser, call: ModelCall):
    """The call as a function of the text."""
    return lambda text: denoiser.predict(call.latents, call.sigma, Conditioning({"c_crossattn": text}))


def run(denoiser: ToyDenoiser, call: ModelCall, *edits, strength: float = 1.0) -> torch.Tensor:
    """The prediction inside the edits, the last of them outermost."""
    forward = network(denoiser, call)
    for edit in edits:
        forward = lambda text, inner=forward, edit=edit: edit(denoiser.modules(), call, inner, strength)  # noqa: E731
    with torch.no_grad():
        return forward(call.tokens)


def erase(concepts: str = "circle", **changes):
    """The toy and an erased UNet of it."""
    denoiser = ToyDenoiser()
    return denoiser, make("dumo", **(STRONG | changes)).erase(denoiser, parse_request(concepts), Report())


def by_hand(denoiser: ToyDenoiser, call: ModelCall, parts: dict, strength: float) -> torch.Tensor:
    """The equation on the toy, written out: one skip, which the decoder reads in its last channels."""
    network, where = denoiser.network, "skip.0.enc.to.dec"
    x = call.latents * (1 + call.sigma.square()).rsqrt().reshape(-1, 1, 1, 1)
    skip = network["enc"](x)
    change = (parts["lora.enc.up"].flatten(1) @ parts["lora.enc.down"].flatten(1)).reshape(4, 4, 1, 1)
    side = skip + torch.nn.functional.conv2d(x, change)
    convolved = torch.nn.functional.conv2d(side, parts[f"{where}.weight"][..., None, None], parts[f"{where}.bias"])
    bins = (call.sigma > parts["edges"]).long()
    scale = strength * parts["scales"][bins, 0].reshape(-1, 1, 1, 1)
    stream = network["block"](skip, call.tokens)
    return stream + 0.1 * network["dec"](torch.cat([stream, skip + scale * convolved], 1))


@pytest.mark.parametrize("strength", [1.0, 0.3])
def test_it_is_the_papers_equation(strength: float) -> None:
    denoiser, erased = erase()
    parts = {name.removeprefix("0."): value for name, value in erased.parts().items()}
    parts["scales"] = torch.tensor([[0.5], [2.0]])
    changed = {f"0.{name}": value for name, value in parts.items()}
    edit = DUMO.inference(type(erased)({f"erasure.{k}": v for k, v in changed.items()}, erased.provenance))
    call = call_of(denoiser, ["a circle"] * 4)
    with torch.no_grad():
        expected = by_hand(denoiser, call, parts, strength)
    got = run(denoiser, call, edit, strength=strength)
    assert torch.allclose(got, expected, atol=1e-4)
    assert (got - run(denoiser, call)).abs().max() > 1e-3, "the edit does nothing"


def test_prompts_that_do_not_say_it_are_bit_identical_and_cost_no_second_pass() -> None:
    denoiser, erased = erase()
    edit, call = DUMO.inference(erased), call_of(denoiser, ["", "a small tree"])
    before, start = run(denoiser, call), denoiser.calls
    assert torch.equal(run(denoiser, call, edit), before) and denoiser.calls - start == 2
    mixed = call_of(denoiser, ["a circle", "a small tree"])
    assert torch.equal(run(denoiser, mixed, edit)[1], run(denoiser, mixed)[1]), "the neighbour's open gate leaks"


def test_the_target_is_moved_to_the_anchor() -> None:
    denoiser, erased = erase("circle => square", negative_guidance=0.0, steps=150, retain_weight=0.0)
    call = call_of(denoiser, ["circle"] * 4)
    before, after = run(denoiser, call), run(denoiser, call, DUMO.inference(erased))
    anchor = run(denoiser, call_of(denoiser, ["square"] * 4))
    assert (after - anchor).square().mean() < 0.9 * (before - anchor).square().mean()


def test_two_stacked_edits_add_their_residuals_in_either_order() -> None:
    """The inner edit must not put its own deltas on the encoder that the outer one records."""
    denoiser, first = erase(seed=1)
    _, second = erase(seed=2)
    one, two = DUMO.inference(first), DUMO.inference(second)
    call = call_of(denoiser, ["a circle"] * 4)
    base = run(denoiser, call)
    both = run(denoiser, call, one, two)
    assert torch.allclose(both, run(denoiser, call, two, one), atol=1e-5)
    alone = [run(denoiser, call, edit) - base for edit in (one, two)]
    assert torch.allclose(both - base, sum(alone), atol=1e-4), "the toy's decoder is linear in its skip"
    assert all(change.abs().max() > 1e-3 for change in alone)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in denoiser.network.modules())


def test_two_concepts_of_one_edit_act_each_on_their_own_rows() -> None:
    denoiser, erased = erase("circle\nsquare")
    call = call_of(denoiser, ["a circle", "a square", "a tree"])
    change = (run(denoiser, call, DUMO.inference(erased)) - run(denoiser, call)).abs().amax((1, 2, 3))
    assert change[0] > 1e-4 and change[1] > 1e-4 and change[2] == 0


def test_stacked_on_a_gated_adapter_it_sees_the_adapted_encoder() -> None:
    denoiser, erased = erase()
    spm = make("spm", steps=20, learning_rate=0.02).erase(ToyDenoiser(), parse_request("circle"), Report())
    adapters, skips = methods()["spm"].inference(spm), DUMO.inference(erased)
    call = call_of(denoiser, ["a circle", "tree"])
    answers = [run(denoiser, call, adapters, skips), run(denoiser, call, skips, adapters)]
    for answer in answers:
        assert torch.equal(answer[1], run(denoiser, call)[1])
        assert not torch.allclose(answer[0], run(denoiser, call, skips)[0], atol=1e-4)


def test_half_precision_is_taken() -> None:
    denoiser, erased = erase()
    edit = DUMO.inference(erased)
    expected = run(denoiser, call_of(denoiser, ["a circle"]), edit)
    denoiser.network.bfloat16()
    half = run(denoiser, call_of(denoiser, ["a circle"], torch.bfloat16), edit)
    assert half.dtype == torch.bfloat16 and torch.allclose(half.float(), expected, atol=0.15)


def test_bins_go_by_noise_level() -> None:
    edges = bin_edges(torch.linspace(10.0, 0.0, 11), 5)
    assert torch.allclose(edges, torch.tensor([2.5, 4.5, 6.5, 8.5]))
    scales = torch.arange(5.0)[:, None].expand(5, 2)
    assert scales_at(torch.tensor([0.1, 2.0, 3.0, 9.9, 50.0]), edges, scales)[:, 0].tolist() == [0, 0, 1, 4, 4]
    assert bin_edges(torch.linspace(10.0, 0.0, 11), 1).shape == (0,)


def test_the_second_phase_learns_the_scales_and_nothing_else() -> None:
    _, without = erase(scale_steps=0)
    _, learned = erase(scale_steps=5, scale_learning_rate=0.1)
    fixed, moved = without.parts(), learned.parts()
    assert torch.equal(fixed["0.scales"], torch.ones_like(fixed["0.scales"]))
    assert (moved["0.scales"] - 1).abs().max() > 0.01
    same = [name for name in fixed if name != "0.scales"]
    assert all(torch.equal(fixed[name], moved[name]) for name in same)


def test_a_network_that_stops_before_its_encoder_and_one_with_other_skips_are_named() -> None:
    denoiser = ToyDenoiser()
    with pytest.raises(RuntimeError, match="did not run its last encoder block"):
        skip_features(denoiser.blocks("encoder"), lambda: None)
    with (
        pytest.raises(ValueError, match="1 decoder blocks, the edit 2 residuals"),
        added_to_skips(denoiser.blocks("decoder"), [torch.zeros(1), torch.zeros(1)]),
    ):
        pass
    _, erased = erase()
    call = call_of(denoiser, ["a circle"])
    modules = {name: module for name, module in denoiser.modules().items() if name != "dec"}
    with pytest.raises(ValueError, match="no block 'dec'"):
        DUMO.inference(erased)(modules, call, network(denoiser, call), 1.0)
