"""Evaluation and attacks on every family: each prompt is drawn as KSampler draws it alone, and no family stops at torch."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import pytest
import torch
from concept_erasure.erasure_core.evaluation.judges.judge import ConceptJudge, Factor
from concept_erasure.erasure_core.evaluation.prompts import prompt_groups
from concept_erasure.erasure_core.evaluation.sampler import Sampling
from concept_erasure.erasure_core.red_team.attack import attacks
from erasure_tests.families import Autoencoder, small_model
from erasure_tests.layouts import LAYOUTS
from erasure_tests.runs import base_hash
from torch import Tensor

from testbed.playground import Playground

pytestmark = pytest.mark.usefixtures("as_a_node_runs")
SAMPLING = Sampling(64, 64, 2, 3.0, "euler", "normal", batch_size=4)
PROMPTS = prompt_groups(
    ["circle"], ["a red {}"], look_alikes="oval", retain_prompts="a blue square beside the old river"
)
LABELS = ("circle", "square", "oval")
FUSED_KERNELS = {"CosmosT2IPredict2", "Anima", "ErnieImage", "JoyImage"}


def judge() -> ConceptJudge:
    """It tells pictures apart by their brightest colour."""

    def score(pictures: Tensor) -> Tensor:
        return pictures.mean((1, 2))

    return ConceptJudge("colours", (Factor("shape", LABELS, score),))


@pytest.fixture(scope="module", params=list(LAYOUTS))
def drawn(request) -> Playground:
    return with_vae(request.param)


@functools.lru_cache(maxsize=1)
def with_vae(layout: str) -> Playground:
    """A random model with a VAE of its family's size. The last one is kept: every test leaves it as it was."""
    testbed = small_model(layout)
    return replace(testbed, vae=Autoencoder(testbed.model.model.latent_format))


def edited(testbed: Playground) -> Any:
    """The MODEL with its text layers changed at random, as an edit would change them."""
    from concept_erasure.erasure_core.families import FAMILIES
    from concept_erasure.nodes import host

    family = FAMILIES[host.family_of(testbed.model)]
    group = "cross_attention_kv" if "cross_attention_kv" in family.groups else "self_attention"
    random = torch.Generator().manual_seed(4)
    with host.open_session(testbed.model, testbed.clip, 64, 64) as denoiser:
        weights = {f"diffusion_model.{name}.weight": layer.weight for name, layer in denoiser.layers(group).items()}
        changes = {key: (torch.randn(value.shape, generator=random),) for key, value in weights.items()}
    model = testbed.model.clone()
    model.add_patches(changes, 0.2)
    return model


def test_an_evaluation_of_one_picture(drawn: Playground) -> None:
    from concept_erasure.nodes.runs.evaluation import run

    before = base_hash(drawn)
    against_itself = evaluate(run, drawn, drawn.model)
    assert against_itself.drifts() and all(row.drift.value == 0 for row in against_itself.drifts())
    moved = evaluate(run, drawn, edited(drawn))
    assert any(row.drift.value > 0 for row in moved.drifts()) and moved.proportions()
    assert base_hash(drawn) == before


def evaluate(run: Any, testbed: Playground, model: Any) -> Any:
    """One picture of a few prompts of different length."""
    from concept_erasure.nodes import host

    linked = host.LinkedModels(testbed.model, model, testbed.clip, testbed.vae, judge(), SAMPLING)
    return run(linked, ["circle"], PROMPTS, 1, 11).evaluation


def test_a_batch_of_prompts_of_any_length_is_what_ksampler_draws_of_each_alone(drawn: Playground) -> None:
    from concept_erasure.nodes import host
    from concept_erasure.nodes.host.shapes import latent_shape

    import nodes

    prompts = ["a red circle", "a square", "a blue square beside the old river", "a red circle", "an oval"]
    painter = host.ComfyImageSampler(drawn.model, drawn.clip, drawn.vae, SAMPLING)
    ours = painter.draw(prompts, [3, 4, 5, 6, 7])
    assert ours.pictures.shape == (5, 64, 64, 3)
    for place, prompt in enumerate(prompts):
        positive, negative = (
            drawn.clip.encode_from_tokens_scheduled(drawn.clip.tokenize(text)) for text in (prompt, "")
        )
        empty = {"samples": torch.zeros(1, *latent_shape(drawn.model, 64, 64))}
        (stock,) = nodes.common_ksampler(drawn.model, 3 + place, 2, 3.0, "euler", "normal", positive, negative, empty)
        alone = drawn.model.model.process_latent_in(stock["samples"])
        torch.testing.assert_close(ours.latents[place : place + 1], alone, rtol=2e-2, atol=2e-2, msg=prompt)


QUICK = {
    "nearest_tokens": {"words": 2, "tries": 1},
    "noise": {"tries": 1},
    "null_inversion": {"steps": 2, "refinements": 1},
    "p4d": {"steps": 1, "words": 2},
    "paraphrase": {"wordings": 2, "tries": 1},
    "relearn": {"steps": 1, "pictures": 1, "rank": 1},
    "ring_a_bell": {"words": 2, "population": 4, "generations": 1},
    "textual_inversion": {"steps": 1, "pictures": 1},
    "unlearn_diff": {"steps": 1, "words": 2},
}


def attack(testbed: Playground, name: str, clip: Any = None) -> Any:
    """One attempt on the randomly changed model."""
    from concept_erasure.nodes import host
    from concept_erasure.nodes.runs.red_team import run

    sampling = replace(SAMPLING, cfg=1.0)
    linked = host.LinkedModels(testbed.model, edited(testbed), clip or testbed.clip, testbed.vae, judge(), sampling)
    one = host.ComfyAttackedModel(linked, "circle", ("a red {}", "the {}"))
    return run(one, attacks()[name](**QUICK.get(name, {})), 1)


SHOWN = ["completion", "inpaint", "null_inversion"]


@pytest.mark.parametrize("name", SHOWN)
def test_an_attack_that_needs_no_gradient_runs_on_every_family(drawn: Playground, name: str) -> None:
    before = base_hash(drawn)
    found = attack(drawn, name)
    assert found.outcome.attack.pictures.shape == (1, 64, 64, 3) and found.calls > 0
    assert found.outcome.attack.pictures.isfinite().all()
    assert base_hash(drawn) == before


@pytest.mark.parametrize("name", sorted(set(attacks()) - set(SHOWN)))
@pytest.mark.parametrize("layout", ["SD1.5", "SDXL", "Flux.1 dev", "Wan 2.1", "Anima"])  # the last varies slowest
def test_every_attack_runs_or_is_refused_before_anything_is_drawn(layout: str, name: str, monkeypatch) -> None:
    from concept_erasure.nodes import host

    testbed = with_vae(layout)
    before, needs = base_hash(testbed), attacks()[name].needs
    # the text of these models is random states without a table of tokens
    refused = "word_vectors" in needs or ("gradients" in needs and LAYOUTS[layout].family in FUSED_KERNELS)
    if refused:
        monkeypatch.setattr(host.ComfyImageSampler, "sample", lambda *_, **__: pytest.fail("something was drawn"))
        with pytest.raises(
            ValueError, match=f"{name} does not work on this model: it needs .*(CLIP's own|fused rotary)"
        ):
            attack(testbed, name)
    else:
        assert attack(testbed, name).outcome.attack.pictures.shape == (1, 64, 64, 3)
    assert base_hash(testbed) == before
