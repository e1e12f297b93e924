"""Loss scaling: it saves the gradients of a float16 network, and changes nothing elsewhere."""

from __future__ import annotations

import pytest
import torch
from concept_erasure.erasure_core.report import Report
from concept_erasure.erasure_core.training.optimiser import LARGEST_SCALE, OVERFLOWS, ScaledAdam
from torch import Tensor, nn


def network(dtype: torch.dtype) -> tuple[nn.Sequential, Tensor]:
    """Two layers, and a float32 factor of what they read."""
    generator = torch.Generator().manual_seed(0)
    layers = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 4096)).requires_grad_(False)
    for parameter in layers.parameters():
        parameter.normal_(0, 0.3, generator=generator)
    return layers.to(dtype), torch.ones(8, requires_grad=True)


def loss_of(layers: nn.Sequential, factor: Tensor) -> Tensor:
    """A small error in the mean over many numbers, with a small weight, as an erasure's losses are."""
    x = torch.linspace(-1, 1, 8 * 8).reshape(8, 8).to(layers[0].weight.dtype)
    wanted = layers(x).float()
    predicted = layers(x * (1.001 * factor).to(x.dtype)).float()
    return 0.01 * (predicted - wanted + 0.002).square().mean()


def gradient(dtype: torch.dtype, scale: float) -> Tensor:
    layers, factor = network(dtype)
    descent = ScaledAdam([factor], 0.0)
    descent.scale = scale
    descent.step(loss_of(layers, factor))
    return factor.grad


def test_gradients_that_vanish_in_float16_are_saved_and_others_are_as_they_were() -> None:
    exact = gradient(torch.float32, 1.0)
    assert torch.equal(gradient(torch.float32, LARGEST_SCALE), exact), "a power of two changes no bit"
    for scale, least, most in ((LARGEST_SCALE, 0.98, 1.0), (1.0, -1.0, 0.9)):
        likeness = float(torch.cosine_similarity(gradient(torch.float16, scale), exact, dim=0))
        assert least <= likeness <= most + 1e-6, (scale, likeness)


def test_steps_are_those_of_adam() -> None:
    ours, theirs = (torch.tensor([1.0, -3.0], requires_grad=True) for _ in range(2))
    descent, adam = ScaledAdam([ours], 0.1), torch.optim.Adam([theirs], lr=0.1)
    for rate in (0.1, 0.1, 0.02):
        descent.step(ours.square().sum(), rate)
        adam.param_groups[0]["lr"] = rate
        adam.zero_grad()
        theirs.square().sum().backward()
        adam.step()
    assert torch.equal(ours, theirs)


def test_only_its_own_parameters_get_a_gradient() -> None:
    mine, other = (torch.ones(2, requires_grad=True) for _ in range(2))
    ScaledAdam([mine], 0.1).step((mine * other).sum())
    assert other.grad is None and bool((mine < 1).all())


def test_an_overflow_leaves_the_step_out_and_halves_the_scale() -> None:
    value = torch.ones(1, requires_grad=True)
    report = Report()
    descent = ScaledAdam([value], 0.1, half=True, report=report)

    def loss() -> Tensor:
        return (value.half() * 4).float().sum()  # times 2^16 its derivative is more than float16 holds

    for expected in (2.0**15, 2.0**14, 2.0**13):
        descent.step(loss())
        assert descent.scale == expected and float(value.detach()) == 1.0
    descent.step(loss())
    assert descent.scale == 2.0**13 and float(value.detach()) < 1.0
    assert report.costs[OVERFLOWS] == 3 and "left out after an overflow in float16: 3" in report.text()


def test_gradients_that_are_finite_at_no_scale_are_an_error() -> None:
    value = torch.zeros(1, requires_grad=True)
    descent = ScaledAdam([value], 0.1, half=True)
    with pytest.raises(FloatingPointError, match="gradients of a loss of 0 are not finite at step 17;"):
        for _ in range(18):
            descent.step(value.sqrt().sum())
    assert float(value.detach()) == 0.0


def test_outside_float16_a_gradient_that_is_not_finite_stops_the_run_at_once() -> None:
    """Scaling cannot have caused it: a step left out in silence gives another edit, and nobody knows."""
    value = torch.ones(1, requires_grad=True)
    descent = ScaledAdam([value], 0.1)
    descent.step(value.square().sum())
    after = value.detach().clone()
    with pytest.raises(FloatingPointError, match=r"gradients of a loss of 0 are not finite at step 2;.*now 0\.1"):
        descent.step((value - value.detach()).abs().sqrt().sum())
    assert torch.equal(value.detach(), after)


@pytest.mark.parametrize("half", [False, True])
def test_a_loss_that_is_not_finite_is_no_overflow(half: bool) -> None:
    value = torch.ones(1, requires_grad=True)
    with pytest.raises(FloatingPointError, match=r"the loss is not finite \(inf\) at step 1;"):
        ScaledAdam([value], 0.1, half=half).step((value / 0).sum())
    assert float(value.detach()) == 1.0
