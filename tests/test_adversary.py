"""The search finds what is hurt most, and the control does not."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from concept_erasure.erasure_core.search.adversary import Damage, Gumbel, Random, Scan, ScreenedScan
from concept_erasure.erasure_core.text.candidates import SPARE, Candidates, prefilter, shortlist
from concept_erasure.erasure_core.text.vocabulary import of_one_kind, words_of
from concept_erasure.erasure_core.training.trajectory import sample_trajectories
from erasure_tests.toy import ToyDenoiser

WORDS = tuple(f"word{i}" for i in range(30))


@pytest.fixture
def hurt():
    """A toy whose edit hits the direction of word7, so that this word is hurt most, and how to measure it."""
    denoiser = ToyDenoiser()
    value = denoiser.network["block"].to_v
    before = value.weight.clone()
    direction = denoiser.encode(["word7"]).tokens[0, 0]
    after = before + torch.outer(torch.ones(8), direction / direction.norm()) * 0.8
    value.weight.data.copy_(after)

    @contextmanager
    def frozen():
        value.weight.data.copy_(before)
        yield
        value.weight.data.copy_(after)

    with frozen():
        samples, _ = sample_trajectories(denoiser, denoiser.encode([""]), 4, 1.0, torch.Generator().manual_seed(0))
    return denoiser, Candidates(WORDS, denoiser.encode(WORDS)), Damage(denoiser, samples, frozen)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def test_a_text_that_takes_much_memory_is_searched_for_fewer_words(monkeypatch) -> None:
    from concept_erasure.erasure_core.concepts import parse_request
    from concept_erasure.erasure_core.report import Report
    from concept_erasure.erasure_core.text import candidates

    denoiser, report = ToyDenoiser(), Report()
    one = denoiser.encode([""]).tokens.numel() * 4
    monkeypatch.setattr(candidates, "MEMORY", 12 * one)
    settings = {"vocabulary": "model_words", "how": "first", "synonym_similarity": 1.0}
    found = candidates.candidates_of(denoiser, parse_request("circle"), report, keep=5, **settings)
    assert candidates.affordable(denoiser) == 12 and found.words == tuple(f"word{i}" for i in range(5))
    assert "only the first 12 of 17 words were searched" in report.text()


def test_damage_is_largest_for_the_planted_word_and_zero_without_an_edit(hurt) -> None:
    denoiser, candidates, damage = hurt
    assert WORDS[int(damage.of(candidates.conditioning).argmax())] == "word7"
    with damage.frozen():
        unedited = Damage(denoiser, damage.probes, damage.frozen)
        predictions = unedited.predictions(candidates.conditioning)
        assert float(unedited.between(predictions, predictions).max()) == 0.0


def test_scan_finds_the_planted_word_and_measures_everything_once_first(hurt) -> None:
    _, candidates, damage = hurt
    scan = Scan(candidates, damage, 5, generator())
    assert len(scan.choose(3)) == 3, "before the first step there must be something to preserve"
    for step in range(6):
        scan.step(step / 6)
    assert bool((scan.damage > 0).all()), "after 6 steps of 5 every one of 30 words is measured"
    assert scan.choose(1) == ["word7"]
    assert torch.allclose(scan.damage, damage.of(candidates.conditioning), rtol=1e-4)


def test_scan_looks_at_the_worst_more_often_but_forgets_nobody(hurt) -> None:
    _, candidates, damage = hurt
    scan, seen = Scan(candidates, damage, 3, generator()), []
    scan._next = (lambda plain: lambda: seen.append(plain()) or seen[-1])(scan._next)
    for step in range(60):
        scan.step(step / 60)
    counts = torch.bincount(torch.tensor(seen).flatten(), minlength=len(WORDS))
    assert counts.min() >= 1 and counts[7] == counts.max()


def test_a_screened_scan_names_the_planted_word_before_it_was_measured(hurt) -> None:
    denoiser, candidates, damage = hurt

    def search(moved) -> ScreenedScan:
        found = ScreenedScan(candidates, damage, 2, generator(), moved)
        found.step(0.0)
        return found

    tokens = candidates.conditioning.tokens

    def moved() -> torch.Tensor:
        with damage.frozen():
            before = denoiser.network["block"].to_v(tokens)
        return (denoiser.network["block"].to_v(tokens) - before).square().sum((1, 2)).detach()

    assert "word7" in search(moved).choose(2), "what the edit does to its text gives it away"
    assert "word7" not in search(lambda: torch.arange(30.0)).choose(2), "a screen that says something else does not"
    unmoved = search(lambda: torch.zeros(30))
    assert len(set(unmoved.choose(4))) == 4, "before the first update all are alike"


def test_a_screened_scan_learns_what_a_change_of_the_text_is_worth(hurt) -> None:
    _, candidates, damage = hurt
    search = ScreenedScan(candidates, damage, 30, generator(), lambda: torch.ones(30))
    search.step(0.0)
    assert torch.allclose(search.damage, damage.of(candidates.conditioning).cpu(), rtol=1e-3), "all were measured"
    assert search.choose(1) == ["word7"]


def test_a_screened_scan_looks_at_every_text_in_each_step_and_runs_the_network_now_and_then(hurt) -> None:
    _, candidates, damage = hurt
    hurts = [torch.eye(30)[i % 30] for i in range(2 * ScreenedScan.EVERY)]
    search, found = ScreenedScan(candidates, damage, 2, generator(), lambda: hurts.pop(0)), []
    before = damage.evaluations
    while hurts:
        search.step(0.0)
        found += search.choose(1)
    assert found == [WORDS[i % 30] for i in range(2 * ScreenedScan.EVERY)], (
        "the table is as old as the last measurement"
    )
    assert damage.evaluations - before <= 2 * 2 * 2 * len(damage.probes.sigma), (
        "two searches of two words, edited and not"
    )


def test_deltas_know_how_far_they_move_a_text() -> None:
    from concept_erasure.erasure_core.training.deltas import Deltas

    denoiser = ToyDenoiser()
    deltas = Deltas(denoiser.layers("cross_attention_kv"), 2, generator())
    tokens = denoiser.encode(WORDS).tokens
    assert not deltas.moved(tokens).any()
    for parameter in deltas.parameters():
        parameter.data.normal_(generator=generator())
    plain = [layer(tokens) for layer in denoiser.layers("cross_attention_kv").values()]
    with deltas.attached():
        edited = [layer(tokens) for layer in denoiser.layers("cross_attention_kv").values()]
    expected = sum((new - old).square().sum((1, 2)) for new, old in zip(edited, plain, strict=True))
    assert torch.allclose(deltas.moved(tokens), expected, rtol=1e-3)


def test_gumbel_climbs_to_the_planted_word_and_random_does_not(hurt) -> None:
    _, candidates, damage = hurt
    gumbel = Gumbel(candidates, damage, 0.5, 2.0, generator())
    for step in range(150):
        gumbel.step(step / 150)
    assert WORDS[int(gumbel.logits.argmax())] == "word7"
    control = Random(candidates, generator())
    chosen = [control.choose(1)[0] for _ in range(150)]
    assert chosen.count("word7") < 30 and len(set(chosen)) > 20


def test_every_search_names_different_words(hurt) -> None:
    _, candidates, damage = hurt
    for search in (Scan(candidates, damage, 30, generator()), Gumbel(candidates, damage, 0.1, 2.0, generator())):
        search.step(0.0)
        assert len(set(search.choose(5))) == 5
    assert len(set(Random(candidates, generator()).choose(5))) == 5


def test_prefilter_leaves_out_synonyms_and_keeps_the_nearest() -> None:
    denoiser = ToyDenoiser()
    words = ("circle", "a circle", *WORDS)
    everything, target = Candidates(words, denoiser.encode(words)), denoiser.encode(["circle"])
    kept, synonyms = prefilter(everything, target, 5, "nearest", 0.9)
    assert synonyms == ["circle"] and len(kept) == 5 and "circle" not in kept.words
    spread, _ = prefilter(everything, target, 5, "spread", 0.9)
    assert len(set(spread.words)) == 5 and spread.words != kept.words
    with pytest.raises(ValueError, match="synonyms"):
        prefilter(everything, target, 5, "nearest", -1.0)
    with pytest.raises(ValueError, match="'far'"):
        prefilter(everything, target, 5, "far", 0.9)


class Shown(ToyDenoiser):
    """A toy that shows its token vectors: word3 is twice as far along the target's direction as word4, and so on."""

    def token_vectors(self, texts):
        vectors = torch.zeros(len(texts), 2)
        for row, text in enumerate(texts):
            number = int(text.removeprefix("word")) if text.startswith("word") else 0
            vectors[row] = torch.tensor([1.0, 0.5 * number])
        return vectors


def test_only_the_words_of_a_kind_and_the_nearest_by_token_vectors_are_encoded() -> None:
    words = [*(f"word{i}" for i in range(1, 60)), "square", "oval"]
    chosen = shortlist(Shown(), ["circle"], words, 5, "nearest")
    assert chosen[:2] == ["square", "oval"], "the other shapes of the word lists come first"
    assert chosen[2:6] == ["word1", "word2", "word3", "word4"] and len(chosen) == 5 + SPARE
    assert chosen[-1] == "word59" and chosen[14] != "word13", "a quarter is spread over the rest"
    spread = shortlist(Shown(), ["circle"], words, 5, "spread")
    assert {"word1", "word59"} <= set(spread) and len(set(spread)) == 5 + SPARE
    assert shortlist(Shown(), ["circle"], words, 5, "first") == words[: 5 + SPARE]
    hidden = ToyDenoiser()
    hidden.token_vectors = lambda texts: None
    assert shortlist(hidden, ["circle"], words, 5, "nearest") == words, "without vectors all must be encoded"


def test_words_under_one_heading_are_of_one_kind() -> None:
    assert {"lion", "tiger", "cat"} <= of_one_kind(["Cat"]) and "owl" not in of_one_kind(["Cat"])
    assert of_one_kind(["Van Gogh"]) == {"van gogh"}
    words = words_of("everyday_words", ToyDenoiser(), 1000)
    assert len(words) == len(set(words)) > 500
