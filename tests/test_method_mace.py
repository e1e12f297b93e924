"""MACE: its loss falls, its fusion is the least-squares solution."""

from __future__ import annotations

import torch
from concept_erasure.erasure_core.closed_form.ridge import normal_matrix, solve
from concept_erasure.erasure_core.concepts import parse_request
from concept_erasure.erasure_core.denoiser import Conditioning
from concept_erasure.erasure_core.methods import mace
from concept_erasure.erasure_core.methods.mace import fuse, masked_attention, seen_masks
from concept_erasure.erasure_core.report import Report
from concept_erasure.erasure_core.training.trajectory import NoisyBatch
from erasure_tests.small import make
from erasure_tests.toy import ToyDenoiser
from torch import Tensor, nn

WIDTH = 12


def rows(n: int, seed: int, width: int = WIDTH) -> Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_fusion_is_the_least_squares_solution(monkeypatch) -> None:
    layer = nn.Linear(WIDTH, 40, bias=False, dtype=torch.float64)
    layer.weight = nn.Parameter(rows(40, 1), requires_grad=False)
    cleaned, states, retain = solve(rows(2, 2), rows(2, 3)), [rows(3, 4), rows(5, 5)], rows(4, 6)
    trained = [
        {"x.lora_up.weight": rows(40, 7, 2), "x.lora_down.weight": rows(2, 8)},
        {"x.lora_up.weight": rows(40, 9, 1), "x.lora_down.weight": rows(1, 10)},
    ]
    erase_weight, retain_weight, ridge = 2.0, 3.0, 0.4
    normal = normal_matrix(torch.cat(states), retain, erase_weight, retain_weight, ridge)
    fused = fuse({"x": layer}, cleaned, trained, states, erase_weight, normal)
    assert fused["x.lora_up.weight"].shape[1] == fused["x.alpha"] == 2 + 2 + 1

    first = layer.weight + layer.weight @ cleaned.shift.T @ cleaned.down
    wanted = [
        part @ first.T + cleaned.read(part) @ delta["x.lora_down.weight"].T @ delta["x.lora_up.weight"].T
        for part, delta in zip(states, trained, strict=True)
    ]
    e, p, r = erase_weight**0.5, retain_weight**0.5, ridge**0.5
    left = torch.cat([e * torch.cat(states), p * retain, r * torch.eye(WIDTH, dtype=torch.float64)])
    right = torch.cat([e * torch.cat(wanted), p * retain @ first.T, r * first.T])
    expected = torch.linalg.lstsq(left, right, driver="gelsd").solution.T - layer.weight
    found = fused["x.lora_up.weight"].double() @ fused["x.lora_down.weight"].double()
    assert float((found - expected).norm() / expected.norm()) < 1e-5, "the file is float32"
    monkeypatch.setattr(mace, "factors", lambda name, up, down: {name: up @ down})
    (exact,) = fuse({"x": layer}, cleaned, trained, states, erase_weight, normal).values()
    assert float((exact - expected).norm() / expected.norm()) < 1e-8
    assert float((first - layer.weight - expected).norm() / expected.norm()) > 1e-2, "the deltas do not matter here"


def test_masks_cover_their_share_where_the_tokens_are_looked_at() -> None:
    denoiser = ToyDenoiser()
    latents = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    conditioning: Conditioning = denoiser.encode(["a circle"] * 2)
    samples = NoisyBatch(latents, torch.tensor([3.0, 1.0]), conditioning, latents, latents)
    masks = seen_masks(denoiser, samples, [1], 0.25)
    assert all(mask.sum() == 4 for mask in masks.values())
    inside = masked_attention(denoiser, samples, [1], masks)
    outside = masked_attention(denoiser, samples, [1], {name: 1 - mask for name, mask in masks.items()})
    everything = masked_attention(denoiser, samples, range(6), masks)
    assert inside > outside and torch.allclose(everything, torch.ones(()))


def test_the_targets_tokens_lose_attention_and_the_run_says_so() -> None:
    report = Report()
    method = make("mace", steps=60, learning_rate=0.02)
    erased = method.erase(ToyDenoiser(), parse_request("circle\ndog"), report)
    losses = report.losses["attention"]
    assert len(losses) == 2 * 60
    assert sum(losses[50:60]) < 0.5 * sum(losses[:10])
    assert not erased.is_zero()
