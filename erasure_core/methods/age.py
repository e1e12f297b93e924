"""Adaptive Guided Erasure (AGE), arXiv 2501.18950: one searched concept c_t is what the target becomes
and what is preserved, at once.

min over the edit, max over c_t in C without the targets, of
L1 + lambda L2 = ||eps_edit(z_e, c_e) - eps(z_e, c_t)||^2 + lambda ||eps_edit(z_t, c_t) - eps(z_t, c_t)||^2.
A large L1 keeps c_t from being a synonym, a large L2 makes it a neighbour that the edit hurts. c_t is a mixture of a few
candidates; the search follows the gradient of both terms, through the frozen predictions too, as the paper writes it. The
reference code cuts L1's gradient off, draws one candidate, and pushes past it (`negative_guidance`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..concepts import ErasureRequest
from ..denoiser import Conditioning
from ..guidance import negative_guidance
from ..method import setting
from ..search.adversary import Damage
from ..search.concept_mixture import MixtureSearch, adversarial_gain, blended, frozen_distances
from ..text.candidates import candidate_choice, candidates_of
from ..text.prompt_templates import PromptTemplate
from ..text.synonyms import synonym_limit
from ..text.vocabulary import word_list
from ..training.optimiser import scaled_adam
from ..training.settings import eta, retaining
from ..training.trained import TrainedMethod, Training
from ..training.trajectory import NoisyBatch

PROBE_LEVELS = 4
FILTERED = 4  # words that the text filter leaves for each candidate: which are neighbours, the frozen model decides


@dataclass(frozen=True)
class Search:
    """AGE's state: the search of each target, and the damage that they measure."""

    by_target: dict[str, MixtureSearch]
    damage: Damage


@dataclass(frozen=True, kw_only=True)
class AdaptiveGuidedErasure(TrainedMethod):
    """Map the target to the mixture of concepts that the minimax game names, and preserve that very mixture."""

    name = "age"
    title = "AGE: adaptive guided erasure"
    paper = "arXiv 2501.18950"

    negative_guidance: float = eta(
        2.0, "How far past the mixture the target is pushed (eta); 0 is the paper, 1 its code."
    )
    retain_weight: float = retaining(1.0, "Weight of preserving the mixture and the retain lines (lambda).")
    vocabulary: str = word_list()
    candidates: int = setting(
        20,
        "How many candidates are searched for each target: those that the frozen model draws most like it.",
        minimum=2,
        maximum=3000,
    )
    mixed: int = setting(
        2, "How many candidates are mixed into the concept that the target becomes; 1 draws a single one.",
        minimum=1, maximum=16,
    )  # fmt: skip
    prefilter: str = candidate_choice()
    synonym_similarity: float = synonym_limit()
    search_steps: int = setting(1, "Search steps in an optimiser step.", minimum=1, maximum=64, advanced=True)
    search_learning_rate: float = setting(
        0.1, "Step size of the search.", minimum=1e-4, maximum=10.0, step=0.01, advanced=True
    )
    temperature: float = setting(
        1.0,
        "Temperature of the mixture: low gives nearly all weight to one candidate.",
        minimum=0.01,
        maximum=100.0,
        step=0.1,
        advanced=True,
    )
    preserved: int = setting(
        4, "Noisy samples on which the mixture is preserved in an optimiser step.", minimum=1, maximum=64, advanced=True
    )
    retain_trajectories: int = setting(
        2, "Sampling runs for each concept that becomes part of a mixture.", minimum=1, maximum=64, advanced=True
    )

    def samples_kept(self, request: ErasureRequest) -> int:
        """See `TrainedMethod`; any candidate may be preserved, and the probes are samples of the empty prompt."""
        words = 1 + self.candidates * len(request.pairs)
        return super().samples_kept(request) + words * self.retain_trajectories * self.sampling_steps

    def prepare(self, run: Training) -> Search:
        """Encode and filter the candidates, and set up a search for each target among those that the frozen model draws
        most like it."""
        choice = (self.vocabulary, FILTERED * self.candidates, self.synonym_similarity, self.prefilter)
        everything = candidates_of(run.denoiser, run.request, run.report, *choice)
        run.pool.fill([""], self.retain_trajectories)
        probes = run.pool.samples("").spread(PROBE_LEVELS)
        damage = Damage(run.denoiser, probes, run.deltas.disabled, run.report.note)

        def search_of(target: str, anchor: str) -> MixtureSearch:
            text = run.denoiser.encode([target])
            distance = frozen_distances(damage, everything.conditioning, text, run.report.check)
            return MixtureSearch(
                everything.rows(distance.argsort()[: self.candidates].tolist()),
                lambda mixed: adversarial_gain(damage, text, mixed, self.retain_weight, maps=not anchor),
                temperature=self.temperature,
                mixed=self.mixed,
                learning_rate=self.search_learning_rate,
                generator=run.generator,
                optimiser=scaled_adam(run.denoiser, run.report),
            )

        return Search({pair.target: search_of(pair.target, pair.anchor) for pair in run.request.pairs}, damage)

    def losses(self, run: Training, state: Search) -> dict[str, Tensor]:
        """`erase` (L1), `mixture` (L2), and `retain` if the user named something to retain. A line with an anchor
        maps the target to the anchor; the search then only names what is preserved."""
        pair = run.in_turn(run.request.pairs)
        search = state.by_target[pair.target]
        for _ in range(self.search_steps):
            search.step(run.step / run.steps)
        run.report.costs["UNet_evaluations_for_the_search"] = state.damage.evaluations
        with torch.no_grad():
            mixture = search.draw()
        words = search.words(mixture)
        for word in words:
            run.report.adversarial[word] += 1

        # z_e with the target's prompt, z_t with the mixture's, and what the frozen model predicts for the mixture on both
        target, rows = run.pool.draw(pair.target, self.batch)
        preserved, preserved_templates = self._noisy_mixture(run, words)
        templates = [*run.pool.templates_of(pair.target, rows), *preserved_templates]
        text = blended_sentences(run, words, mixture.weights, templates)
        mapped = replace(target, conditioning=text.rows(slice(0, self.batch)))
        preserved = replace(preserved, conditioning=text.rows(slice(self.batch, None)))
        both = NoisyBatch.cat([mapped, preserved])
        becomes, stays = run.pool.predict(both).split([self.batch, self.preserved])
        if pair.anchor:
            becomes = run.pool.anchor_predictions(pair.target, pair.anchor, rows)
        neutral = run.pool.anchor_predictions(pair.target, pair.neutral, rows)
        desired = negative_guidance(becomes, target.conditional, neutral, self.negative_guidance)

        predicted, predicted_preserved = run.predict(target, preserved)
        erase = run.error(predicted, desired, target.sigma)
        retain = run.error(predicted_preserved, stays, preserved.sigma)
        terms = {"erase": erase, "mixture": self.retain_weight * retain}
        return terms | run.retain_loss(self.retain_weight, self.batch, self.retain_trajectories)

    def _noisy_mixture(self, run: Training, words: Sequence[str]) -> tuple[NoisyBatch, list[PromptTemplate]]:
        """`preserved` noisy samples of the mixture's words in turn, the heaviest first, and their templates."""
        run.pool.fill(words, self.retain_trajectories)
        samples, templates = [], []
        for i in range(self.preserved):
            word = words[i % len(words)]
            one, rows = run.pool.draw(word, 1)
            samples.append(one)
            templates += run.pool.templates_of(word, rows)
        return NoisyBatch.cat(samples), templates


def blended_sentences(
    run: Training, words: Sequence[str], weights: Tensor, templates: Sequence[PromptTemplate]
) -> Conditioning:
    """For each template the mixture of its sentences with each of the words."""
    sentences = [template.with_concept(word) for template in templates for word in words]
    return blended(run.denoiser.encode(sentences), weights)
