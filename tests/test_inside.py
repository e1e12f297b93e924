"""`target < wider concept`: the target goes, and what is drawn for the wider concept stays (ESD's `erase_from`)."""

from __future__ import annotations

import pytest
import torch
from concept_erasure.erasure_core.concepts import parse_request
from concept_erasure.erasure_core.erased_unet import load_erased_unet, save_erased_unet
from concept_erasure.erasure_core.method import methods
from concept_erasure.erasure_core.report import Report
from concept_erasure.erasure_core.text.prompt_templates import rivals
from concept_erasure.erasure_core.training.trained import Training
from concept_erasure.erasure_core.training.trajectory import TrajectoryPool
from erasure_tests.small import make
from erasure_tests.toy import ToyDenoiser

REQUEST = parse_request("red circle < circle")


def running() -> Training:
    """A run whose pool holds the target and the wider concept."""
    denoiser, generator = ToyDenoiser(), torch.Generator().manual_seed(0)
    pool = TrajectoryPool(denoiser, steps=3, guidance_scale=3.0, generator=generator, avoid=REQUEST.told_apart_by)
    pool.fill((*REQUEST.targets, *REQUEST.wider), 16)
    return Training(denoiser, REQUEST, None, pool, generator, Report())


def test_the_target_is_pushed_away_from_the_wider_concept_alone() -> None:
    run, (pair,) = running(), REQUEST.pairs
    state = run.generator.get_state()
    samples, desired = run.samples_of(pair, 8, 2.0)
    run.generator.set_state(state)
    _, rows = run.pool.draw(pair.target, 8)
    wider = run.pool.anchor_predictions(pair.target, "circle", rows)
    assert torch.allclose(desired, wider - 2 * (samples.conditional - wider))


def test_the_wider_concept_is_pushed_away_from_the_target_unless_its_sentence_rules_that_out() -> None:
    run, (pair,) = running(), REQUEST.pairs
    samples, desired = run.around(pair, 64, 2.0)
    texts = [context.template for context in run.pool.templates("circle")]
    colours = [any(word in text.split() for word in rivals({"red"})) for text in texts]
    assert any(colours) and not all(colours) and not any("red" in text.split() for text in texts)
    held = (desired == samples.conditional).flatten(1).all(1)
    first = [run.denoiser.encode([text.replace("{}", "circle")]).tokens[0] for text in texts]
    for row in range(64):
        place = next(i for i, tokens in enumerate(first) if torch.equal(tokens, samples.conditioning.tokens[row]))
        assert bool(held[row]) == colours[place]


def test_half_of_the_samples_are_of_the_wider_concept() -> None:
    run, said = running(), []
    for run.step in range(4):
        samples, _ = run.targets(3, 1.0)
        red = run.denoiser.encode(["red"]).tokens[0, 0]
        said += [bool((row == red).all(-1).any()) for row in samples.conditioning.tokens]
    assert sum(said) == 6 and len(said) == 12


@pytest.mark.parametrize("name", ["esd", "uce", "sdd"])
def test_every_kind_of_method_takes_it_and_the_file_says_it(name: str, tmp_path) -> None:
    assert name in methods()
    erased = make(name, vocabulary="everyday_words").erase(ToyDenoiser(), REQUEST, Report())
    assert not erased.is_zero() and erased.provenance.inside == ("red circle",)
    save_erased_unet(erased, tmp_path / "edit.safetensors")
    source = load_erased_unet(tmp_path / "edit.safetensors").provenance
    assert (
        source.targets == (("red circle", "circle"),)
        and source.inside == ("red circle",)
        and source.retain == ("circle",)
    )
