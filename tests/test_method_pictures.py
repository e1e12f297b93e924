"""Pictures as training data, Degeneration-Tuning and Forget-Me-Not, on a toy denoiser."""

from __future__ import annotations

import pytest
import torch
from concept_erasure.erasure_core.concepts import ErasureRequest, parse_request
from concept_erasure.erasure_core.hooks.attention import attention_maps
from concept_erasure.erasure_core.methods.degeneration import scrambled
from concept_erasure.erasure_core.methods.forget_me_not import attention_norm, token_mask
from concept_erasure.erasure_core.report import Report
from concept_erasure.erasure_core.training.clean_latents import CleanLatents, finished, noised, shown
from concept_erasure.erasure_core.training.trajectory import sample_trajectories
from erasure_tests.small import make
from erasure_tests.toy import ToyDenoiser
from erasure_tests.weights import edited


class FlowToy(ToyDenoiser):
    """The toy with the noise levels of a flow model."""

    def sigmas(self, n: int) -> torch.Tensor:
        """See `Denoiser`."""
        return torch.linspace(1.0, 0.0, n + 1)


def seeded(seed: int = 0) -> torch.Generator:
    """A fresh source of random numbers."""
    return torch.Generator().manual_seed(seed)


def patches_of(latent: torch.Tensor, size: int) -> list[list[float]]:
    """The patches of one latent, cut with plain slices, in a sorted order."""
    _, height, width = latent.shape
    found = [
        latent[:, top : top + size, left : left + size].flatten().tolist()
        for top in range(0, height - height % size, size)
        for left in range(0, width - width % size, size)
    ]
    return sorted(found)


def test_scrambling_keeps_every_patch_whole_and_moves_it() -> None:
    latents = torch.randn(3, 4, 8, 8, generator=seeded())
    result = scrambled(latents, 4, seeded(1))
    for before, after in zip(latents, result, strict=True):
        assert not torch.equal(before, after)
        assert patches_of(before, 2) == patches_of(after, 2)
        assert patches_of(before, 4) != patches_of(after, 4), "larger patches survived"
    same = scrambled(latents[:1].repeat(3, 1, 1, 1), 4, seeded(1))
    assert not torch.equal(same[0], same[1]), "every picture has the same order"


def test_scrambling_leaves_an_odd_edge_and_refuses_tiny_latents() -> None:
    latents = torch.randn(2, 4, 9, 11, generator=seeded())
    result = scrambled(latents, 4, seeded(1))
    assert torch.equal(result[:, :, 8:], latents[:, :, 8:]) and torch.equal(result[..., 8:], latents[..., 8:])
    assert not torch.equal(result[:, :, :8, :8], latents[:, :, :8, :8])
    with pytest.raises(ValueError, match="grid is 4, but the latents are only 3x8"):
        scrambled(torch.zeros(1, 4, 3, 8), 4, seeded())


def test_finished_is_where_the_runs_ended() -> None:
    denoiser = ToyDenoiser()
    samples, ends = sample_trajectories(denoiser, denoiser.encode(["circle", "a dog"]), 5, 3.0, seeded())
    pictures = finished(samples, 2, 3.0)
    assert torch.allclose(pictures.latents, ends, atol=1e-5)
    assert torch.equal(pictures.conditioning.tokens, denoiser.encode(["circle", "a dog"]).tokens)


@pytest.mark.parametrize("kind", [ToyDenoiser, FlowToy])
def test_noise_is_put_on_as_the_family_does_and_leads_back(kind: type[ToyDenoiser]) -> None:
    denoiser = kind()
    latents = torch.randn(64, 4, 4, 4, generator=seeded())
    batch = noised(denoiser, CleanLatents(latents, denoiser.encode(["circle"] * 64)), 8, seeded(2))
    sigma = batch.sigma.reshape(-1, 1, 1, 1)
    assert torch.allclose(batch.latents - sigma * batch.conditional, latents, atol=1e-5)
    noise = batch.conditional + (latents if kind is FlowToy else 0.0)
    assert abs(float(noise.std()) - 1.0) < 0.05 and abs(float((noise * latents).mean())) < 0.05
    assert set(batch.sigma.tolist()) == set(denoiser.sigmas(8)[:-1].tolist())


def test_each_picture_of_the_user_and_each_sentence_is_used() -> None:
    denoiser = ToyDenoiser()
    sentences = denoiser.encode(["circle", "a circle", "red circle"])
    for n in (1, 2, 5):
        pictures = shown(torch.arange(n).float().reshape(n, 1, 1, 1), sentences)
        assert set(pictures.latents.flatten().tolist()) == set(range(n))
        assert len({tuple(row.flatten().tolist()) for row in pictures.conditioning.tokens}) == 3


def test_degeneration_learns_the_pictures_for_the_target_more_than_for_a_retained_word() -> None:
    """The user's pictures are even, so scrambling leaves them as they are; light or dark, what the target becomes at much
    noise follows them, and a retained word follows less."""
    noise, drawn = torch.randn(8, 4, 4, 4, generator=seeded(4)), {}
    for level in (-6.0, 6.0):
        denoiser = ToyDenoiser()
        request = ErasureRequest(parse_request("circle").pairs, ("square",), examples=torch.full((2, 4, 4, 4), level))
        method = make(
            "degeneration",
            vocabulary="art_styles",
            steps=150,
            learning_rate=0.02,
            trajectories=4,
            layers="cross_attention",
            batch=4,
        )
        with edited(denoiser, method.erase(denoiser, request, Report())), torch.no_grad():
            for word in ("circle", "square"):
                predicted = denoiser.predict(5.0 * noise, torch.full((8,), 5.0), denoiser.encode([word] * 8))
                drawn[word, level] = float((5.0 * (noise - predicted)).mean())
    circle, square = (drawn[word, 6.0] - drawn[word, -6.0] for word in ("circle", "square"))
    assert circle > 1.0 and abs(square) < 0.5 * circle, drawn


@pytest.mark.parametrize("name", ["degeneration", "forget_me_not"])
def test_pictures_of_the_user_are_learned_from(name: str) -> None:
    latents = torch.randn(3, 4, 4, 4, generator=seeded())
    request = parse_request("circle")
    linked = ErasureRequest(request.pairs, examples=latents)
    other = ErasureRequest(request.pairs, examples=-latents)
    results = [make(name).erase(ToyDenoiser(), case, Report()).tensors for case in (request, linked, linked, other)]
    changed = [key for key in results[0] if not torch.equal(results[0][key], results[1][key])]
    assert changed and all(torch.equal(results[1][key], results[2][key]) for key in results[1])
    assert any(not torch.equal(results[1][key], results[3][key]) for key in changed)
    two = ErasureRequest(parse_request("circle\nsquare").pairs, examples=latents)
    with pytest.raises(ValueError, match="2 concepts"):
        make(name).erase(ToyDenoiser(), two, Report())


@pytest.mark.parametrize("name", ["degeneration", "forget_me_not"])
def test_an_anchor_that_is_not_used_is_said(name: str) -> None:
    told, untold = Report(), Report()
    make(name).erase(ToyDenoiser(), parse_request("circle => square"), told)
    make(name).erase(ToyDenoiser(), parse_request("circle"), untold)
    assert any("anchor" in note for note in told.notes) and not any("anchor" in note for note in untold.notes)


def test_the_mask_is_on_the_concept_and_if_wanted_on_the_end() -> None:
    denoiser = ToyDenoiser()
    assert token_mask(denoiser, "a red circle here", "circle", False).tolist() == [0, 0, 1, 0, 0, 0]
    assert token_mask(denoiser, "a red circle here", "circle", True).tolist() == [0, 0, 1, 0, 1, 1]


def test_the_norm_is_that_of_the_chosen_probabilities() -> None:
    maps = {"a": torch.rand(2, 2, 3, 4, generator=seeded()), "b": torch.rand(2, 1, 5, 4, generator=seeded(1))}
    mask = torch.tensor([[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
    chosen = [(0, 1), (1, 2), (1, 3)]
    squares = sum(float(x[n, :, :, t].square().sum()) for x in maps.values() for n, t in chosen)
    rows = 2 * 2 * 3 + 2 * 1 * 5
    assert attention_norm(maps, mask).item() == pytest.approx((squares / rows) ** 0.5, rel=1e-5)


def attention_to(denoiser: ToyDenoiser, word: str) -> float:
    """The mean probability with which pixels look at `word` in "a <word>"."""
    latents = torch.randn(8, 4, 4, 4, generator=seeded(7))
    with attention_maps(denoiser) as maps, torch.no_grad():
        denoiser.predict(latents, torch.linspace(1.0, 8.0, 8), denoiser.encode([f"a {word}"] * 8))
        return float(next(iter(maps().values()))[..., 1].mean())


def test_attention_leaves_the_concept_and_not_a_retained_word() -> None:
    denoiser = ToyDenoiser()
    circle, square = attention_to(denoiser, "circle"), attention_to(denoiser, "square")
    method = make("forget_me_not", tokens="concept", steps=80, learning_rate=0.02, trajectories=6, retain_weight=3.0)
    erased = method.erase(denoiser, parse_request("circle", "square\na square"), Report())
    with edited(denoiser, erased):
        assert attention_to(denoiser, "circle") < 0.3 * circle
        assert attention_to(denoiser, "square") > 0.6 * square


def test_without_holding_other_words_they_are_hurt_more() -> None:
    denoiser = ToyDenoiser()
    latents = torch.randn(6, 4, 4, 4, generator=seeded(3))

    def answer() -> torch.Tensor:
        return denoiser.predict(latents, torch.linspace(1.0, 8.0, 6), denoiser.encode(["square"] * 6))

    frozen, damage = answer(), []
    for weight in (0.0, 10.0):
        method = make("forget_me_not", retain_weight=weight, steps=80, learning_rate=0.02, trajectories=6)
        erased = method.erase(denoiser, parse_request("circle", "square"), Report())
        with edited(denoiser, erased):
            damage.append(float((answer() - frozen).square().mean()))
    assert damage[1] < 0.5 * damage[0]
