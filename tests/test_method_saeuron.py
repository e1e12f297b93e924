"""SAeUron: which latents it chooses, and what the edit does where they fire."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from concept_erasure.erasure_core.concepts import parse_request
from concept_erasure.erasure_core.inference import ModelCall, recorded
from concept_erasure.erasure_core.methods.saeuron import SAeUron
from concept_erasure.erasure_core.report import Report
from concept_erasure.erasure_core.sae.autoencoder import ConceptSAE, concept_score, selected
from concept_erasure.erasure_core.sae.latent_edit import SelectedLatents
from erasure_tests.small import make
from erasure_tests.toy import ToyDenoiser

SIGMAS = torch.tensor([10.0, 5.0, 2.0, 1.0])


def random_sae(d: int = 4, latents: int = 12) -> ConceptSAE:
    """An autoencoder with random weights of the toy's one block."""
    generator = torch.Generator().manual_seed(0)
    encoder, decoder = (torch.randn(latents, d, generator=generator) for _ in range(2))
    bias = torch.randn(latents, generator=generator)
    return ConceptSAE(encoder, bias, decoder, torch.randn(d, generator=generator), 0.2, "block", 3, "toy", "0")


def chosen_of(sae: ConceptSAE, ids: list[int], factor: float, gate: float = 0.2) -> SelectedLatents:
    """An edit of these latents with one factor at all levels."""
    bias = sae.encoder_bias - sae.encoder @ sae.decoder_bias
    table = torch.full((len(SIGMAS), len(ids)), factor)
    return SelectedLatents(sae.encoder[ids], bias[ids], sae.decoder[ids], table, torch.full_like(table, gate), SIGMAS)


def states(side: tuple[int, int] = (3, 5)) -> torch.Tensor:
    """A block's output (2, 4, h, w), not square."""
    return torch.randn(2, 4, *side, generator=torch.Generator().manual_seed(1))


def test_the_chosen_latents_alone_give_what_the_whole_autoencoder_gives() -> None:
    sae, x, ids = random_sae(), states(), [1, 4, 7]
    edited = chosen_of(sae, ids, -2.0).edit(x, torch.tensor([5.0, 1.0]))
    for row in range(2):
        for i in range(3):
            for j in range(5):
                latents = sae.encode(x[row, :, i, j])
                changed = latents.clone()
                changed[ids] *= -2.0
                expected = x[row, :, i, j] + sae.decode(changed) - sae.decode(latents)
                assert torch.allclose(edited[row, :, i, j], expected, atol=1e-5)
    assert not torch.allclose(edited, x)


def test_no_latent_or_a_factor_of_one_gives_exactly_x() -> None:
    sae, x, sigma = random_sae(), states(), torch.tensor([5.0, 1.0])
    assert torch.equal(chosen_of(sae, [], -2.0).edit(x, sigma), x)
    assert torch.equal(chosen_of(sae, [1, 4, 7], 1.0).edit(x, sigma), x)
    assert torch.equal(chosen_of(sae, [1, 4, 7], -2.0, gate=1e9).edit(x, sigma), x)
    assert torch.equal(chosen_of(sae, [1, 4, 7], -2.0).edit(x, sigma, strength=0.0), x)


def test_tables_are_looked_up_by_the_nearest_noise_level() -> None:
    table = torch.arange(4.0)[:, None]
    chosen = SelectedLatents(torch.ones(1, 4), torch.zeros(1), torch.ones(1, 4), table, table, SIGMAS)
    factor, _ = chosen.at(torch.tensor([14.0, 6.0, 4.4, 1.2, 0.01, 0.0]))
    assert factor.squeeze(1).tolist() == [0, 1, 1, 3, 3, 3]


def test_the_latent_that_fires_for_the_target_alone_has_the_highest_score() -> None:
    other = torch.full((2, 6), 0.5)
    target = other.clone()
    target[:, 3] = 2.0
    score = concept_score(target, other)
    everything = torch.ones_like(score, dtype=torch.bool)
    assert selected(score, 1, everything)[:, 3].all() and selected(score, 1, everything).sum() == 2
    assert not selected(concept_score(other, other), 6, everything).any(), "chosen although nothing tells the two apart"
    assert torch.allclose(score.sum(1), torch.zeros(2), atol=1e-6)


def test_a_latent_that_fires_everywhere_is_not_chosen_for_a_little_more() -> None:
    other, target = torch.tensor([[10.0, 0.1, 10.0]]), torch.tensor([[14.0, 0.5, 10.0]])
    score = concept_score(target, other)
    assert selected(score, 1, torch.ones_like(score, dtype=torch.bool)).tolist() == [[True, False, False]], "no control"
    assert selected(score, 1, target >= 2 * other).tolist() == [[False, True, False]]
    assert not selected(score, 3, target >= 9 * other).any()


def test_a_target_without_a_latent_of_its_own_is_said(monkeypatch) -> None:
    from concept_erasure.erasure_core.methods import saeuron

    monkeypatch.setattr(saeuron, "concept_score", lambda target, other: torch.zeros_like(target))
    with pytest.raises(ValueError, match=r"no latent fires 3 times as much for the target.*lower selectivity"):
        make("saeuron", selectivity=3.0).erase(ToyDenoiser(), parse_request("circle"), Report())


def test_share_of_levels_limits_where_the_edit_acts() -> None:
    erased = make("saeuron", sampling_steps=8, first_share=0.5).erase(ToyDenoiser(), parse_request("circle"), Report())
    factor = erased.parts()["block.factor"]
    assert torch.equal(factor[:4], torch.ones_like(factor[:4])) and (factor[4:] != 1).any()
    with pytest.raises(ValueError, match="lower first_share"):
        make("saeuron", first_share=0.9, last_share=0.2).erase(ToyDenoiser(), parse_request("circle"), Report())


@pytest.mark.parametrize("both", [False, True])
def test_rows_of_the_negative_prompt_are_left_alone_unless_asked(both: bool) -> None:
    denoiser = ToyDenoiser()
    erased = make("saeuron", gamma=-50.0, both_halves=both).erase(denoiser, parse_request("circle"), Report())
    conditioning = denoiser.encode(["circle", "circle"])
    latents = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(5)).repeat(2, 1, 1, 1)
    call = ModelCall(latents, torch.tensor([5.0, 5.0]), conditioning.tokens, torch.tensor([True, False]))

    def forward(tokens: torch.Tensor) -> torch.Tensor:
        return denoiser.predict(latents, call.sigma, conditioning)

    plain = forward(conditioning.tokens)
    edited = SAeUron.inference(erased)(denoiser.modules(), call, forward, 1.0)
    assert not torch.allclose(edited[0], plain[0])
    assert torch.equal(edited[1], plain[1]) != both


def test_a_linked_sae_is_used_as_it_is_and_the_report_shows_the_choice() -> None:
    sae, report, denoiser = random_sae(), Report(), ToyDenoiser()
    request = dataclasses.replace(parse_request("circle"), sae=sae)
    parts = make("saeuron", latents=2).erase(denoiser, request, report).parts()
    rows = parts["block.encoder"]
    assert all((sae.encoder == row).all(1).any() for row in rows) and not report.losses
    ids = [int((sae.encoder == row).all(1).nonzero()) for row in rows]
    text = report.text()
    assert "latents changed for 'circle'" in text and all(f"{i} (" in text for i in ids)


def test_an_sae_of_another_model_is_refused_and_of_another_checkpoint_noted() -> None:
    for change in ({"family": "SDXL"}, {"block": "elsewhere"}):
        request = dataclasses.replace(parse_request("circle"), sae=dataclasses.replace(random_sae(), **change))
        with pytest.raises(ValueError, match="link an SAE of this MODEL"):
            make("saeuron").erase(ToyDenoiser(), request, Report())
    report = Report()
    request = dataclasses.replace(parse_request("circle"), sae=dataclasses.replace(random_sae(), fingerprint="1"))
    make("saeuron").erase(ToyDenoiser(), request, report)
    assert "another checkpoint" in report.text()


def test_strength_scales_the_change_of_the_block() -> None:
    denoiser = ToyDenoiser()
    edit = SAeUron.inference(make("saeuron").erase(denoiser, parse_request("circle"), Report()))
    conditioning = denoiser.encode(["circle"])
    latents = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(5))
    call = ModelCall(latents, torch.tensor([5.0]), conditioning.tokens, torch.tensor([True]))

    def block_output(strength: float | None) -> torch.Tensor:
        def forward(_tokens: torch.Tensor) -> torch.Tensor:
            with recorded({"block": denoiser.network["block"]}) as kept:
                denoiser.predict(latents, call.sigma, conditioning)
            return kept["block"]

        return forward(call.tokens) if strength is None else edit(denoiser.modules(), call, forward, strength)

    plain, half, full = (block_output(strength) for strength in (None, 0.5, 1.0))
    assert not torch.allclose(full, plain)
    assert torch.allclose(half - plain, 0.5 * (full - plain), atol=1e-5)
