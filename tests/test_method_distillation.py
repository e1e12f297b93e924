"""Concept Ablation, All but One and SDD: what each draws, matches and keeps."""

from __future__ import annotations

import pytest
import torch
from concept_erasure.erasure_core.concepts import parse_request
from concept_erasure.erasure_core.method import methods
from concept_erasure.erasure_core.report import Report
from concept_erasure.erasure_core.training.deltas import Deltas
from concept_erasure.erasure_core.training.trained import Training
from erasure_tests.small import make
from erasure_tests.toy import ToyDenoiser
from erasure_tests.training import running


def nudge(run: Training, size: float = 0.3) -> None:
    """Give the deltas an effect."""
    with torch.no_grad():
        for parameter in run.deltas.parameters():
            parameter += size


def test_concept_ablation_learns_on_pictures_of_the_anchor() -> None:
    run = running(parse_request("circle => square"))
    state = make("concept_ablation").prepare(run)
    pictures = state["circle"]
    assert len(pictures.samples.sigma) == len(pictures.target) == 4 * 2
    again = run.denoiser.predict(pictures.samples.latents, pictures.samples.sigma, pictures.samples.conditioning)
    assert torch.allclose(again, pictures.samples.conditional, atol=1e-6)
    square, circle = (run.denoiser.encode([word]).tokens[0, 0] for word in ("square", "circle"))
    for said, meant in zip(pictures.target.tokens, pictures.samples.conditioning.tokens, strict=True):
        (place,) = [i for i, token in enumerate(said) if torch.equal(token, circle)]
        assert torch.equal(meant[place], square), "the anchor stands where the target does"
        rest = [i for i in range(len(said)) if i != place]
        assert torch.equal(said[rest], meant[rest]), "the rest of the sentence is the same"


def test_concept_ablation_with_an_empty_anchor_draws_the_rest_of_the_sentence() -> None:
    run = running(parse_request("circle"))
    tokens = make("concept_ablation", trajectories=8).prepare(run)["circle"].samples.conditioning.tokens
    circle = run.denoiser.encode(["circle"]).tokens[0, 0]
    assert not any(torch.equal(token, circle) for said in tokens for token in said)
    assert len({tuple(said.flatten().tolist()) for said in tokens}) > 3, "only empty prompts were drawn"


def test_concept_ablation_draws_no_pictures_of_the_target() -> None:
    def evaluations(name: str) -> float:
        report = Report()
        make(name, batch=1).erase(ToyDenoiser(), parse_request("circle => square"), report)
        return report.costs["UNet_evaluations_for_trajectories"]

    assert evaluations("concept_ablation") == 2 * 2 * 4
    assert evaluations("esd") > 2 * 2 * 4


def test_all_but_one_matches_directions_by_hand() -> None:
    run = running(parse_request("circle"))
    method = make("all_but_one", negative_guidance=0.5, unconditional_weight=3.0)
    state = method.prepare(run)
    with run.deltas.attached():
        nudge(run)
        before = run.generator.get_state()
        terms = method.losses(run, state)
        run.generator.set_state(before)
        samples, rows = run.pool.draw("circle", 2)
        edited = run.denoiser.predict(samples.latents, samples.sigma, samples.conditioning)
        edited_empty = run.denoiser.predict(samples.latents, samples.sigma, run.denoiser.encode(["", ""]))
    rest = run.pool.anchor_predictions("circle", "")[rows]
    wanted = rest - 0.5 * (samples.conditional - rest) - samples.unconditional
    assert torch.allclose(terms["direction"], (edited - edited_empty - wanted).square().mean())
    moved = (edited_empty - samples.unconditional).square().mean()
    assert float(moved.detach()) > 0 and torch.allclose(terms["unconditional"], 3 * moved)


def test_all_but_one_takes_an_anchor_as_it_is() -> None:
    """Before the first step the loss is the distance of the two directions, whatever eta is."""
    losses = []
    for eta in (0.0, 2.0):
        run = running(parse_request("circle => square"))
        method = make("all_but_one", negative_guidance=eta)
        losses.append(float(method.losses(run, method.prepare(run))["direction"].detach()))
    assert losses[0] == losses[1] > 0


def test_all_but_one_holds_the_unconditional_prediction() -> None:
    def drift(weight: float) -> float:
        report = Report()
        method = make("all_but_one", unconditional_weight=weight, steps=60, learning_rate=0.02, trajectories=4)
        erased = method.erase(ToyDenoiser(), parse_request("circle => square"), report)
        denoiser = ToyDenoiser()
        latents, sigma = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(3)), torch.tensor([8.0, 2.0])
        before = denoiser.predict(latents, sigma, denoiser.encode(["", ""]))
        for key, up in erased.tensors.items():
            if key.endswith(".lora_up.weight"):
                base = key.removesuffix(".lora_up.weight")
                module = denoiser.network.get_submodule(base.removeprefix("diffusion_model."))
                module.weight.data += up @ erased.tensors[f"{base}.lora_down.weight"]
        return float((denoiser.predict(latents, sigma, denoiser.encode(["", ""])) - before).square().mean())

    assert drift(1.0) < 0.5 * drift(0.0)


def slow_copy(deltas: Deltas, decay: float):
    """SDD's slow copy, from the module in which the method was found."""
    import sys

    return sys.modules[methods()["sdd"].__module__].SlowCopy(deltas, decay)


def test_the_slow_copy_is_a_moving_average() -> None:
    run = running(parse_request("circle"))
    start = run.deltas.state()
    slow = slow_copy(run.deltas, 0.75)
    nudge(run, 1.0)
    slow.update()
    nudge(run, 1.0)
    live = run.deltas.state()
    slow.update()
    with slow.acting():
        expected = 0.75 * 0.25 * 1.0 + 0.25 * 2.0
        for mean, first in zip(run.deltas.state(), start, strict=True):
            assert torch.allclose(mean, first + expected)
    assert all(torch.equal(now, then) for now, then in zip(run.deltas.state(), live, strict=True))
    slow.keep()
    assert not any(torch.equal(now, then) for now, then in zip(run.deltas.state(), live, strict=True))


def test_sdd_saves_the_slow_copy_and_not_the_student() -> None:
    def size(decay: float) -> float:
        erased = make("sdd", ema_decay=decay, steps=8).erase(ToyDenoiser(), parse_request("circle"), Report())
        return sum(float(value.square().sum()) for key, value in erased.tensors.items() if "lora_up" in key)

    assert 0 < size(0.99) < 0.2 * size(0.0)


def test_sdd_learns_the_students_own_prediction() -> None:
    """The target follows the student where the edit has moved the sentence without the concept; the guard notices."""
    run = running(parse_request("circle"))
    method = make("sdd", guard_weight=2.0)
    state = method.prepare(run)
    with run.deltas.attached():
        nudge(run)
        before = run.generator.get_state()
        terms = method.losses(run, state)
        run.generator.set_state(before)
        rows = torch.randint(len(state.drawn["circle"].samples.sigma), (2,), generator=run.generator)
        samples = state.drawn["circle"].samples.rows(rows)
        without = state.drawn["circle"].without.rows(rows)
        student = run.denoiser.predict(samples.latents, samples.sigma, samples.conditioning)
        own = run.denoiser.predict(samples.latents, samples.sigma, without)
    frozen = run.denoiser.predict(samples.latents, samples.sigma, without)
    assert torch.allclose(terms["erase"], (student - own).square().mean())
    assert torch.allclose(terms["guard"], 2 * (own - frozen).square().mean())
    gradient = torch.autograd.grad(terms["erase"], run.deltas.parameters(), retain_graph=True)
    expected = torch.autograd.grad((student - own.detach()).square().mean(), run.deltas.parameters())
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(gradient, expected, strict=True))


def test_sdd_draws_anew_with_the_slow_copy() -> None:
    run = running(parse_request("circle\nmoon"), steps=4)
    method = make("sdd", refreshes=1, ema_decay=0.0)
    state = method.prepare(run)
    first = {target: told.samples for target, told in state.drawn.items()}
    with run.deltas.attached():
        nudge(run)
        for run.step in (0, 1):
            method.losses(run, state)
            assert all(state.drawn[target].samples is samples for target, samples in first.items())
        run.step = 2
        method.losses(run, state)
        again = state.drawn["moon"].samples
        with_edit = run.denoiser.predict(again.latents, again.sigma, again.conditioning)
    assert torch.allclose(with_edit, again.conditional, atol=1e-6), "the slow copy drew them"
    assert torch.equal(again.conditioning.tokens, first["moon"].conditioning.tokens)
    frozen = run.denoiser.predict(again.latents, again.sigma, again.conditioning)
    assert not torch.allclose(frozen, again.conditional, atol=1e-3)


@pytest.mark.parametrize(("name", "weight"), [("sdd", "guard_weight"), ("concept_ablation", "anchor_weight")])
def test_a_weight_of_zero_leaves_its_term_out(name: str, weight: str) -> None:
    for value, terms in ((0.0, {"erase", "retain"}), (1.0, {"erase", "retain", weight.removesuffix("_weight")})):
        report = Report()
        make(name, **{weight: value}).erase(ToyDenoiser(), parse_request("circle", "square"), report)
        assert set(report.losses) == terms


def test_a_live_teacher_moves_with_the_edit() -> None:
    run = running(parse_request("circle => square"))
    with run.deltas.attached():
        frozen, live = make("concept_ablation"), make("concept_ablation", teacher="live")
        state = frozen.prepare(run)
        nudge(run)
        losses = []
        for method in (frozen, live):
            before = run.generator.get_state()
            losses.append(float(method.losses(run, state)["erase"].detach()))
            run.generator.set_state(before)
    assert losses[0] != losses[1]
