"""AGE: the mixture, the gradients that the paper's search needs, and what the search finds."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from concept_erasure.erasure_core.concepts import parse_request
from concept_erasure.erasure_core.report import Report
from concept_erasure.erasure_core.search.adversary import Damage
from concept_erasure.erasure_core.search.concept_mixture import (
    MixtureSearch,
    adversarial_gain,
    blended,
    frozen_distances,
    mixture_of,
)
from concept_erasure.erasure_core.text.candidates import Candidates, candidates_of
from concept_erasure.erasure_core.training.trajectory import sample_trajectories
from erasure_tests.small import make
from erasure_tests.toy import ToyDenoiser

WORDS = tuple(f"word{i}" for i in range(8))


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


@pytest.fixture
def edited():
    """A toy with an edit that hits word5, and how to measure on it."""
    denoiser = ToyDenoiser()
    value = denoiser.network["block"].to_v
    before = value.weight.clone()
    direction = denoiser.encode(["word5"]).tokens[0, 0]
    after = before + torch.outer(torch.ones(8), direction / direction.norm()) * 0.8
    value.weight.data.copy_(after)

    @contextmanager
    def frozen():
        value.weight.data = before
        yield
        value.weight.data = after

    samples, _ = sample_trajectories(denoiser, denoiser.encode([""]), 4, 1.0, generator())
    return denoiser, Candidates(WORDS, denoiser.encode(WORDS)), Damage(denoiser, samples, frozen)


def test_a_mixture_is_the_largest_shares_renormalised() -> None:
    logits = torch.tensor([0.0, 2.0, 1.0, -1.0])
    mixture = mixture_of(logits, 0.5, 2)
    shares = torch.exp(torch.tensor([2.0, 1.0]) / 0.5)
    assert mixture.index.tolist() == [1, 2]
    assert torch.allclose(mixture.weights, shares / shares.sum())
    assert mixture_of(logits, 0.01, 2).weights[0] > 0.999, "a low temperature leaves one"
    assert len(mixture_of(logits, 1.0, 9).weights) == 4, "there are no more to mix"


def test_blended_prompts_are_weighted_sums_sentence_by_sentence() -> None:
    denoiser, weights = ToyDenoiser(), torch.tensor([0.75, 0.25])
    parts = denoiser.encode(["a ring", "a moon", "red ring", "red moon"])
    expected = torch.stack([0.75 * parts.tokens[i] + 0.25 * parts.tokens[i + 1] for i in (0, 2)])
    assert torch.allclose(blended(parts, weights).tokens, expected)


@pytest.mark.parametrize(("retain_weight", "maps"), [(1.0, True), (0.0, True), (1.0, False)])
def test_the_search_gradient_is_that_of_finite_differences(edited, retain_weight: float, maps: bool) -> None:
    """Both terms reach the logits, through the frozen predictions too."""
    denoiser, candidates, damage = edited
    target = denoiser.encode(["circle"])

    def gain(logits: torch.Tensor) -> torch.Tensor:
        mixture = mixture_of(logits, 1.0, 3)
        mixed = blended(candidates.conditioning.rows(mixture.index), mixture.weights)
        return adversarial_gain(damage, target, mixed, retain_weight, maps)

    logits = torch.tensor([0.0, 0.3, 0.6, 0.1, -0.2, 1.0, 0.2, -1.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(gain(logits), logits)
    steps = 1e-2 * torch.eye(len(logits))
    with torch.no_grad():
        expected = torch.stack([(gain(logits + step) - gain(logits - step)) / 2e-2 for step in steps])
    assert float(gradient.abs().max()) > 1e-5
    assert torch.allclose(gradient, expected, rtol=0.05, atol=1e-5)


def test_the_gain_is_both_terms_by_hand(edited) -> None:
    denoiser, candidates, damage = edited
    target, mixed = denoiser.encode(["circle"]), candidates.conditioning.rows([2])
    with damage.frozen():
        original = damage.predictions(mixed)
    first = (damage.predictions(target) - original).square().mean()
    second = (damage.predictions(mixed) - original).square().mean()
    assert torch.allclose(adversarial_gain(damage, target, mixed, 2.0, maps=True), first + 2 * second)
    assert torch.allclose(adversarial_gain(damage, target, mixed, 2.0, maps=False), 2 * second)


def test_neighbours_are_what_the_frozen_model_draws_alike(edited) -> None:
    """Measured without the edit, which moves word5."""
    _, candidates, damage = edited
    target = candidates.conditioning.rows([5])
    distance = frozen_distances(damage, candidates.conditioning, target)
    assert float(distance[5]) == 0.0 and bool((distance[[0, 1, 2, 3, 4, 6, 7]] > 0).all())
    with damage.frozen():
        by_hand = [damage.predictions(candidates.conditioning.rows([i])) for i in (2, 5)]
    assert torch.allclose(distance[2], (by_hand[0] - by_hand[1]).square().mean())


def search_on(candidates: Candidates, gain) -> MixtureSearch:
    return MixtureSearch(candidates, gain, temperature=1.0, mixed=2, learning_rate=0.3, generator=generator())


def test_the_search_climbs_to_the_word_that_the_edit_hurts_and_nowhere_without_a_gain(edited) -> None:
    denoiser, candidates, damage = edited
    target = denoiser.encode(["circle"])
    search = search_on(candidates, lambda mixed: adversarial_gain(damage, target, mixed, 1.0, maps=False))
    flat = search_on(candidates, lambda mixed: 0.0 * mixed.tokens.sum())
    for step in range(80):
        search.step(step / 80)
        flat.step(step / 80)
    assert WORDS[int(search.draw().index[0])] == "word5"
    assert not bool(flat.logits.any())


def test_neither_targets_nor_their_synonyms_are_candidates(monkeypatch) -> None:
    same = "circle <end>"  # to the toy this says what "circle" says
    monkeypatch.setattr(ToyDenoiser, "known_words", lambda self: ["Circle", same, "red circle", *WORDS])
    report, settings = Report(), {"vocabulary": "model_words", "how": "nearest", "keep": 20}
    kept = candidates_of(ToyDenoiser(), parse_request("circle"), report, synonym_similarity=0.9, **settings)
    assert set(kept.words) == {"red circle", *WORDS}
    assert any(same in note for note in report.notes)


@pytest.mark.parametrize("mixed", [1, 3])
def test_the_run_names_what_it_mixed(mixed: int) -> None:
    report = Report()
    method = make("age", mixed=mixed, vocabulary="model_words")
    method.erase(ToyDenoiser(), parse_request("circle\nmoon => star", "square"), report)
    assert sum(report.adversarial.values()) == mixed * 8
    assert set(report.losses) == {"erase", "mixture", "retain"}
    assert report.costs["UNet_evaluations_for_the_search"] > 0
