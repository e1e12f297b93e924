"""What `make bench-speed` makes of its rows, and that the reference really holds what the published code holds."""

from __future__ import annotations

import json
from types import SimpleNamespace

import torch

from benchmarks import speed
from benchmarks.speed import (
    METHODS,
    OURS,
    PUBLISHED,
    TimedText,
    as_published,
    best_key,
    memory_of,
    ratio_table,
    summary,
    table,
)

SHORT = {
    OURS: {"candidates": 4, "trajectories": 1, "sampling_steps": 2},
    PUBLISHED: {"candidates": 4, "sampling_steps": 2},
}


def row(name: str, factor: float, **changes) -> dict:
    """A row as `one_run` gives it, its costs `factor` times those of `ap`."""
    costs = {"UNet_evaluations": 1000 * factor, "seconds": 10 * factor + 5, "text_seconds": 5.0}
    plain = {"method": name, "target": "circle", "seed": 0, "updates": 1000, "of": 1000}
    return plain | costs | {"esr1": 90.0 + factor, "psr1": 80.0, "look_alike": None, "drift": 1.0} | changes


MEMORY = [
    {"method": OURS, "peak_MB": 100.0, "held_MB": 0.0},
    {"method": PUBLISHED, "peak_MB": 2000.0, "held_MB": 1000.0},
]


def test_ratios_are_ap_reference_over_ap_in_the_mean_over_the_cases() -> None:
    rows = [row(OURS, 1), row(PUBLISHED, 41, updates=20), row(OURS, 2, seed=1), row(PUBLISHED, 38, seed=1)]
    rows.append(row(OURS, 9, target="star"))  # not done by the reference
    result = summary(rows, MEMORY)
    assert result["unet_evaluations_ratio"] == (41 + 19) / 2
    assert result["wall_ratio"] == round((415 / 15 + 385 / 25) / 2, 2) and result["wall_ratio_with_text_kept"] == 30.0
    assert result["peak_memory_ratio"] == 20.0 and result["peak_memory_ratio_of_the_loop"] == 10.0
    assert (result["esr1_ap"], result["psr1_ap"], result["whole_runs_ap"]) == (94.0, 80.0, 3)
    assert (result["esr1_ap_reference"], result["whole_runs_ap_reference"]) == (128.0, 1), (
        "the unfinished run says nothing"
    )
    assert not result["reference_is_whole"] and summary([row(OURS, 1), row(PUBLISHED, 2)])["reference_is_whole"]
    assert table(rows).count("\n") == 6 and "| UNet evaluations | 30.0 |" in ratio_table(result)


def test_two_halves_of_a_series_that_share_no_case_have_no_ratio() -> None:
    result = summary([row(OURS, 1), row(PUBLISHED, 40, target="star")])
    assert result["unet_evaluations_ratio"] is None and "| wall time | - |" in ratio_table(result)


def test_a_part_of_a_series_has_no_ratio() -> None:
    result = summary([row(OURS, 1)], MEMORY[:1])
    assert set(result) == {"esr1_ap", "psr1_ap", "whole_runs_ap"} and "| wall time | - |" in ratio_table(result)
    assert "ESR-1: ap_reference, ap (whole runs) | -, 91.0 |" in ratio_table(result)


def test_a_finished_whole_run_is_taken_for_a_part_of_it() -> None:
    part, whole = ((PUBLISHED, "circle", 0, 100, settings) for settings in ({"steps": 20}, {}))
    assert best_key(part, {json.dumps(whole)}) == whole
    assert best_key(part, {json.dumps(part)}) == part


def test_memory_is_that_of_tensors_and_of_what_the_published_code_holds(testbed, few_words) -> None:
    found = {name: memory_of(testbed, name, "circle", SHORT[name]) for name in METHODS}
    weights = sum(p.numel() for p in testbed.model.model.diffusion_model.parameters()) * 4 / 1e6
    assert found[PUBLISHED]["held_MB"] >= 2 * weights - 1, "a second copy, and the gradients"
    assert found[PUBLISHED]["peak_MB"] > found[PUBLISHED]["held_MB"] > found[OURS]["held_MB"] == 0
    assert found[OURS]["peak_MB"] > 10


def test_the_reference_holds_a_second_copy_and_a_gradient_of_every_weight() -> None:
    unet = torch.nn.Linear(1000, 500, bias=False).half().requires_grad_(False)
    denoiser = SimpleNamespace(_model=SimpleNamespace(diffusion_model=unet))
    with as_published(denoiser) as megabytes:
        assert megabytes == (4 + 2) * 0.5
        unet(torch.ones(1, 1000).half()).sum().backward()
        assert bool(unet.weight.grad.any())
    assert unet.weight.grad is None and not unet.weight.requires_grad


def test_the_text_encoders_share_of_a_run_is_timed(monkeypatch) -> None:
    clock = iter((1.0, 3.5, 10.0, 10.5))
    monkeypatch.setattr(speed, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    text = TimedText(lambda tokens: tokens)
    assert text("one") == "one" and text("two") == "two" and text.seconds == 3.0
