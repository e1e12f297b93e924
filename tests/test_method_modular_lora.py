"""The safety LoRA: what each objective is after, and that the second term holds what it says."""

from __future__ import annotations

import pytest
import torch
from concept_erasure.erasure_core.concepts import parse_request
from concept_erasure.erasure_core.report import Report
from erasure_tests.small import make
from erasure_tests.toy import ToyDenoiser
from erasure_tests.weights import edited

LONG = {"steps": 80, "learning_rate": 0.02, "trajectories": 4}


def probe(denoiser: ToyDenoiser, prompt: str) -> torch.Tensor:
    """The network's answer to a prompt on fixed latents."""
    latents = torch.randn(8, 4, 4, 4, generator=torch.Generator().manual_seed(5))
    return denoiser.predict(latents, torch.linspace(9.0, 1.0, 8), denoiser.encode([prompt] * 8))


def error(one: torch.Tensor, other: torch.Tensor) -> float:
    """Mean squared difference."""
    return float((one - other).square().mean())


def erased(denoiser: ToyDenoiser, request: str = "circle => square", retain: str = "", **changes):
    """What the method gives, after enough steps to see where it goes."""
    return make("modular_lora", **(LONG | changes)).erase(denoiser, parse_request(request, retain), Report())


def test_sdd_lands_on_the_anchor_and_esd_goes_past_it() -> None:
    denoiser = ToyDenoiser()
    target, anchor, empty = (probe(denoiser, prompt) for prompt in ("circle", "square", ""))
    past = anchor - 3.0 * (target - empty)
    after = {}
    for objective in ("sdd", "esd"):
        with edited(denoiser, erased(denoiser, objective=objective, negative_guidance=3.0)):
            after[objective] = probe(denoiser, "circle")
    assert error(after["sdd"], anchor) < 0.3 * error(target, anchor)
    assert error(after["esd"], past) < error(after["sdd"], past)
    assert error(after["sdd"], anchor) < error(after["esd"], anchor)


def test_guidance_is_no_part_of_sdd_but_of_esd() -> None:
    def up(objective: str, eta: float) -> list[torch.Tensor]:
        edit = erased(ToyDenoiser(), objective=objective, negative_guidance=eta, steps=3)
        return [value for key, value in edit.tensors.items() if "lora_up" in key]

    assert all(torch.equal(a, b) for a, b in zip(up("sdd", 0.0), up("sdd", 2.0), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(up("esd", 0.0), up("esd", 2.0), strict=True))


@pytest.mark.parametrize("objective", ["esd", "sdd"])
def test_the_anchor_and_the_retain_lines_are_held_where_they_were(objective: str) -> None:
    denoiser = ToyDenoiser()
    before = {prompt: probe(denoiser, prompt) for prompt in ("square", "ring")}

    def damage(weight: float, retain: str) -> dict[str, float]:
        with edited(denoiser, erased(denoiser, retain=retain, objective=objective, retain_weight=weight)):
            return {prompt: error(probe(denoiser, prompt), before[prompt]) for prompt in before}

    free, anchored, both = damage(0.0, ""), damage(5.0, ""), damage(5.0, "ring")
    assert anchored["square"] < 0.7 * free["square"]
    assert both["ring"] < 0.7 * anchored["ring"]


def test_several_targets_take_turns() -> None:
    denoiser = ToyDenoiser()
    anchor = probe(denoiser, "square")
    before = {prompt: error(probe(denoiser, prompt), anchor) for prompt in ("circle", "ring")}
    with edited(denoiser, erased(denoiser, "circle => square\nring => square", objective="sdd")):
        for prompt, distance in before.items():
            assert error(probe(denoiser, prompt), anchor) < 0.5 * distance
