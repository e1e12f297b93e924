"""AP's published loop: what is sampled, with which network, how often, and what each kind of loop may change."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest
import torch
from concept_erasure.erasure_core.concepts import parse_request
from concept_erasure.erasure_core.method import methods, settings_of
from concept_erasure.erasure_core.methods.ap_reference import Loop, Searches
from concept_erasure.erasure_core.report import Report
from concept_erasure.erasure_core.search.adversary import Gumbel
from concept_erasure.erasure_core.text.candidates import Candidates
from concept_erasure.erasure_core.training.trained import Training
from concept_erasure.erasure_core.training.trajectory import NoisyBatch
from erasure_tests.small import make
from erasure_tests.toy import ToyDenoiser
from erasure_tests.training import running

pytestmark = pytest.mark.usefixtures("few_words")
STEPS = 5
WORDS = ("disc", "square", "red")


@dataclass(frozen=True)
class Begun:
    """A run that has begun, on a toy whose edit is not zero and attached."""

    run: Training
    state: Searches

    def loop(self, searching: bool) -> Loop:
        """Its next loop."""
        return make("ap_reference", sampling_steps=STEPS).loop(self.run, self.state, searching)

    def frozen(self, batch: NoisyBatch, prompt: str) -> torch.Tensor:
        """The frozen network's prediction on a batch, for one prompt."""
        with torch.no_grad(), self.run.deltas.disabled():
            return self.run.denoiser.predict(batch.latents, batch.sigma, self.run.denoiser.encode([prompt]))


@pytest.fixture
def begun():
    """A run for two targets."""
    run = running(parse_request("circle\nstar => square"))
    candidates = Candidates(WORDS, run.denoiser.encode(WORDS))
    searches = {target: Gumbel(candidates, None, 0.1, 2.0, run.generator) for target in run.request.targets}
    for parameter in run.deltas.parameters():
        parameter.data.add_(0.5)
    with run.deltas.attached():
        yield Begun(run, Searches(candidates, searches))


def test_each_loop_asks_the_frozen_network_anew_about_latents_of_the_edited_one(begun) -> None:
    samples = []
    for _ in range(40):
        before = begun.run.denoiser.calls
        state = begun.run.generator.get_state()
        loop = begun.loop(searching=False)
        spent = begun.run.denoiser.calls - before
        level = [round(float(s), 4) for s in begun.run.denoiser.sigmas(STEPS)].index(round(float(loop.target.sigma), 4))
        named = next(t for t, search in begun.state.by_target.items() if search is loop.search)
        assert spent == 2 * 2 * level + 3 + (named == "star"), (
            "two guided runs, three predictions, one more for an anchor"
        )
        assert len(loop.target.sigma) == len(loop.preserved.sigma) == 1 and torch.equal(
            loop.target.sigma, loop.preserved.sigma
        )
        assert torch.equal(loop.target.latents, loop.preserved.latents) == (level == 0), (
            "both start from the same noise"
        )
        said, neutral = begun.frozen(loop.target, named), begun.frozen(loop.target, "")
        anchor = begun.frozen(loop.target, "square") if named == "star" else neutral
        assert torch.allclose(loop.desired, anchor - (said - neutral), atol=1e-6)
        assert torch.allclose(loop.preserved.conditional, begun.frozen(loop.preserved, loop.word), atol=1e-6)
        begun.run.generator.set_state(state)
        with begun.run.deltas.disabled():
            unedited = begun.loop(searching=False)
        assert torch.equal(unedited.target.latents, loop.target.latents) == (level == 0)
        samples.append((level, named, loop.word))
    levels, named, words = (Counter(column) for column in zip(*samples, strict=True))
    assert set(levels) == set(range(STEPS)) and set(named) == {"circle", "star"} and set(words) == set(WORDS)


def test_only_a_loop_for_the_search_reaches_the_logits(begun) -> None:
    loop = begun.loop(searching=False)
    assert not loop.preserved.conditioning.tokens.requires_grad
    loop = begun.loop(searching=True)
    (predicted,) = begun.run.predict(loop.preserved)
    loop.search.ascend((predicted - loop.preserved.conditional).square().mean())
    moved = [bool(search.logits.any()) for search in begun.state.by_target.values()]
    assert moved.count(True) == 1 and all(parameter.grad is None for parameter in begun.run.deltas.parameters())


def test_a_run_counts_each_evaluation_and_keeps_no_sampling_runs() -> None:
    denoiser, report = ToyDenoiser(), Report()
    method = make("ap_reference", steps=6, sampling_steps=STEPS, vocabulary="everyday_words")
    erased = method.erase(denoiser, parse_request("circle"), report)
    loops = 2 * 6 - 1  # the search has no loop after the last step: nothing would follow from it
    costs = {name: value for name, value in report.costs.items() if name.startswith("UNet")}
    assert (
        costs["UNet_evaluations_with_gradient"] == 2 * loops and costs["UNet_evaluations_of_the_teacher"] == 3 * loops
    )
    assert sum(costs.values()) == denoiser.calls and costs["UNet_evaluations_for_trajectories"] % 4 == 0
    assert not erased.is_zero() and sum(report.adversarial.values()) == 6 and "circle" not in report.adversarial
    again = method.erase(ToyDenoiser(), parse_request("circle"), Report())
    assert all(torch.equal(value, again.tensors[key]) for key, value in erased.tensors.items())


def test_what_is_set_is_what_the_published_scripts_for_objects_set() -> None:
    method = methods()["ap_reference"]
    published = {
        "steps": 1000, "learning_rate": 1e-5, "rank": 0, "layers": "cross_attention", "negative_guidance": 1.0,
        "retain_weight": 1.0, "loss_weighting": "x0", "sampling_steps": 50, "guidance_scale": 3.0, "prefilter": "spread",
        "candidates": 100, "search_learning_rate": 0.01, "temperature": 2.0,
    }  # fmt: skip
    defaults = {field.name: field.default for field in settings_of(method)}
    assert published.items() <= defaults.items()
    own = {"vocabulary", "synonym_similarity", "checkpointing"}
    assert set(defaults) - set(published) == own, "a setting of ap that has no effect here"
    assert method().samples_in_a_step(parse_request("circle", "ring")) == 2
    assert method().samples_kept(parse_request("circle", "ring")) == 0
