"""The formulas, against numbers computed by hand."""

from __future__ import annotations

import pytest
import torch
from concept_erasure.erasure_core import guidance
from concept_erasure.erasure_core.text.prompt_templates import NOUNS, WORDS, draw_templates, is_style, siblings
from concept_erasure.erasure_core.text.synonyms import template_words_like
from concept_erasure.erasure_core.training.trajectory import TrajectoryPool, sample_trajectories
from erasure_tests.toy import ToyDenoiser


def numbers(*values: float) -> torch.Tensor:
    return torch.tensor(values).reshape(-1, 1, 1, 1)


def test_guidance_formulas() -> None:
    empty, target, anchor = numbers(1.0), numbers(3.0), numbers(5.0)
    assert guidance.classifier_free(empty, target, 4.0).item() == 9.0
    assert guidance.classifier_free(empty, target, 1.0).item() == 3.0
    assert guidance.negative_guidance(empty, target, empty, 1.0).item() == -1.0  # ESD with eta 1
    assert guidance.negative_guidance(anchor, target, empty, 0.0).item() == 5.0  # plain mapping
    assert guidance.negative_guidance(anchor, target, empty, 0.5).item() == 4.0


def test_x0_weighting_is_sigma_squared_because_it_compares_pictures() -> None:
    sigma, latents = torch.tensor([2.0, 0.5]), numbers(7.0, 7.0)
    predicted, desired = numbers(1.0, 1.0), numbers(4.0, 3.0)
    pictures = guidance.denoised(latents, predicted, sigma) - guidance.denoised(latents, desired, sigma)
    assert torch.allclose(guidance.squared_error(predicted, desired, sigma, "x0"), pictures.square().flatten())
    assert torch.equal(guidance.squared_error(predicted, desired, sigma, "eps"), torch.tensor([9.0, 4.0]))
    expected = torch.tensor([9.0 * 5**0.5, 4.0 * 1.25**0.5])
    assert torch.allclose(guidance.squared_error(predicted, desired, sigma, "balanced"), expected)
    with pytest.raises(ValueError, match="'sum'"):
        guidance.squared_error(predicted, desired, sigma, "sum")


def test_euler_steps_end_on_the_picture_of_a_perfect_prediction() -> None:
    picture, noise = torch.tensor(2.0), torch.tensor(-1.0)
    latents = picture + 10 * noise
    for sigma, following in ((10.0, 4.0), (4.0, 1.0), (1.0, 0.0)):
        latents = guidance.euler_step(latents, noise, torch.tensor(sigma), torch.tensor(following))
    assert latents.item() == pytest.approx(2.0)


def test_a_trajectory_keeps_the_teachers_predictions_at_its_own_noise_levels() -> None:
    denoiser = ToyDenoiser()
    conditioning = denoiser.encode(["a circle", "a square"])
    samples, finished = sample_trajectories(denoiser, conditioning, 5, 3.0, torch.Generator().manual_seed(0))
    assert len(samples.sigma) == 10 and finished.shape == (2, 4, 4, 4)
    again = denoiser.predict(samples.latents, samples.sigma, samples.conditioning)
    assert torch.allclose(again, samples.conditional, atol=1e-6)
    empty = denoiser.predict(samples.latents, samples.sigma, denoiser.encode([""] * 10))
    assert torch.allclose(empty, samples.unconditional, atol=1e-6)


def test_a_run_without_guidance_is_half_the_work_and_ends_where_the_prompt_alone_leads() -> None:
    denoiser = ToyDenoiser()
    conditioning = denoiser.encode(["a circle", "a square"])
    samples, finished = sample_trajectories(denoiser, conditioning, 5, 1.0, torch.Generator().manual_seed(0))
    assert bool(samples.unconditional.isnan().all()) and bool(finished.isfinite().all())
    sizes: list[int] = []

    def counted(latents, sigma, text):
        sizes.append(len(sigma))
        return denoiser.predict(latents, sigma, text)

    sample_trajectories(denoiser, conditioning, 5, 1.0, torch.Generator().manual_seed(0), predict=counted)
    assert sizes == [2] * 5
    away = denoiser.encode(["", ""])
    whole, same = sample_trajectories(
        denoiser, conditioning, 5, 1.0, torch.Generator().manual_seed(0), away_from=away, predict=counted
    )
    assert sizes[5:] == [4] * 5 and torch.allclose(same, finished, atol=1e-5)
    expected = denoiser.predict(whole.latents, whole.sigma, away.repeat(5))
    assert torch.allclose(whole.unconditional, expected, atol=1e-6), (
        "what is asked for is predicted also at a scale of 1"
    )


def test_guidance_away_from_the_neutral_sentence_gives_its_prediction_too() -> None:
    denoiser = ToyDenoiser()
    pool = TrajectoryPool(denoiser, steps=3, guidance_scale=3.0, generator=torch.Generator().manual_seed(0))
    pool.fill(["circle"], 4, away_from_neutral=True)
    evaluations, circle = pool.evaluations, pool.samples("circle")
    assert evaluations == 2 * 4 * 3
    rest = denoiser.encode([sentence.neutral for sentence in pool.templates("circle")] * 3)
    expected = denoiser.predict(circle.latents, circle.sigma, rest)
    assert torch.allclose(pool.anchor_predictions("circle", ""), expected, atol=1e-6)
    assert pool.evaluations == evaluations, "it was known"


def test_a_pool_gives_each_concept_its_own_samples_and_draws_them_once() -> None:
    denoiser = ToyDenoiser()
    pool = TrajectoryPool(
        denoiser,
        steps=3,
        guidance_scale=3.0,
        generator=torch.Generator().manual_seed(0),
    )
    pool.fill(["circle", "square", "circle", ""], 2)
    calls = denoiser.calls
    pool.fill(["square"], 2)
    assert denoiser.calls == calls, "a concept that was there was drawn again"
    square = pool.samples("square")
    assert len(square.sigma) == 6
    said = [pool.templates("square")[i].with_concept("square") for i in (0, 1)]
    assert torch.equal(square.conditioning.tokens[:2], denoiser.encode(said).tokens)
    assert torch.equal(pool.samples("").conditional, pool.samples("").unconditional)
    circle = pool.samples("circle")
    sentences = pool.templates("circle")
    for anchor in ("square", ""):
        said = denoiser.encode([context.with_concept(anchor) for context in sentences] * 3)
        expected = denoiser.predict(circle.latents, circle.sigma, said)
        assert torch.allclose(pool.anchor_predictions("circle", anchor), expected, atol=1e-6)


def test_contexts_keep_the_rest_of_the_sentence() -> None:
    drawn = draw_templates("Red", 12, torch.Generator().manual_seed(0))
    assert len({context.template for context in drawn}) >= 10
    for word in ("red", *siblings("Red")):
        assert all(word not in context.template.split() for context in drawn), "its own kind is pushed away with it"
    assert all(context.template.split()[-1] in NOUNS for context in drawn[3:]), "an attribute stands before a noun"
    for context in (*drawn, *draw_templates("circle", 12, torch.Generator().manual_seed(0))):
        words = set(context.neutral.split()) - {"thing"}
        assert words <= set(context.template.split()), "the neutral sentence says something new"
    assert [context.with_concept("") for context in draw_templates("", 2, torch.Generator())] == ["", ""]


def test_a_style_stands_behind_what_is_drawn_in_it() -> None:
    assert is_style("Flat style") and is_style("in the style of Van Gogh") and not is_style("stylish house")
    for number, drawn in enumerate(draw_templates("flat style", 40, torch.Generator().manual_seed(0), ("cat",))):
        sentence = drawn.with_concept("flat style")
        assert "a flat style" not in sentence and "cat" not in sentence
        assert number == 0 or sentence == f"{drawn.neutral} in flat style", "what is drawn stays, the style goes"


def test_no_sentence_says_a_word_to_avoid() -> None:
    def said(avoid: tuple[str, ...]) -> set[str]:
        denoiser = ToyDenoiser()
        generator = torch.Generator().manual_seed(0)
        pool = TrajectoryPool(denoiser, steps=1, guidance_scale=1.0, generator=generator, avoid=avoid)
        pool.fill(["red", "circle"], 60)
        contexts = [context for word in ("red", "circle") for context in pool.templates(word)]
        return {word for context in contexts for word in context.template.split()}

    assert {"square", "box"} <= said(())
    assert not {"square", "box"} & said(("square", "box"))


def test_a_whole_kind_may_be_erased() -> None:
    light = ("bright", "dark", "pale")
    for avoid in (light, WORDS):
        for context in draw_templates("circle", 40, torch.Generator().manual_seed(0), avoid):
            assert not set(avoid) - {"thing"} & set(context.template.split())


def test_words_that_mean_a_target_are_found_among_those_of_the_sentences() -> None:
    denoiser = ToyDenoiser()
    assert template_words_like(denoiser, ["square", "unicorn"]) == {"square"}
    denoiser.encode = lambda prompts: ToyDenoiser.encode(
        denoiser, [prompt.replace("box", "square") for prompt in prompts]
    )
    denoiser.token_vectors = lambda texts: ToyDenoiser.token_vectors(
        denoiser, [text.replace("box", "square") for text in texts]
    )
    assert template_words_like(denoiser, ["square", "unicorn"]) == {"square", "box"}


def test_an_attribute_has_siblings_and_a_thing_has_none() -> None:
    assert "blue" in siblings("Red") and "Red" not in siblings("Red") and "striped" not in siblings("red")
    assert siblings("circle") == []
