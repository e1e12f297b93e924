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
from ..text.candidates import candidates_of
from ..text.prompt_templates import PromptTemplate
from ..text.synonyms import synonym_limit
from ..text.vocabulary import VOCABULARIES
from ..training.optimiser import scaled_adam
from ..training.trained import TrainedMethod, Training
from ..training.trajectory import NoisyBatch

PROBE_LEVELS = 4
FILTERED = 4  # words that the text filter leaves for each candidate: which are neighbours, the frozen model decides


@dataclass(frozen=True)
class Search:
    """What AGE keeps: the search of each target, and what it measures with."""

    by_target: dict[str, MixtureSearch]
    damage: Damage


@dataclass(frozen=True, kw_only=True)
class AdaptiveGuidedErasure(TrainedMethod):
    """Map the target to the mixture of concepts that the minimax game names, and preserve that very mixture."""

    name = "age"
    title = "AGE: adaptive guided erasure"
    paper = "arXiv 2501.18950"

    negative_guidance: float = setting(
        2.0,
        "How far past the mixture the target is pushed (eta); 0 is the paper, 1 its code.",
        minimum=0.0,
        maximum=10.0,
        step=0.1,
    )
    retain_weight: float = setting(
        1.0, "Weight of preserving the mixture and the retain lines (lambda).", minimum=0.0, maximum=100.0, step=0.1
    )
    vocabulary: str = setting(
        "everyday_words",
        "Where the candidates come from. model_words are the most frequent whole words of the text encoder.",
        choices=VOCABULARIES,
    )
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
    prefilter: str = setting(
        "nearest",
        "Which words of the vocabulary become candidates: the nearest to a target, a spread over all distances, or the "
        "first of the list.",
        choices=("nearest", "spread", "first"),
        advanced=True,
    )
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
        everything = candidates_of(
            run.denoiser,
            run.request,
            run.report,
            vocabulary=self.vocabulary,
            keep=FILTERED * self.candidates,
            how=self.prefilter,
            synonym_similarity=self.synonym_similarity,
        )
        run.pool.fill([""], self.retain_trajectories)
        samples = run.pool.samples("")
        levels = torch.linspace(0, len(samples.sigma) - 1, PROBE_LEVELS + 2)[1:-1].round().long()
        damage = Damage(
            run.denoiser, samples.rows(levels.to(samples.sigma.device)), run.deltas.disabled, run.report.note
        )

        def search_of(target: str, anchor: str) -> MixtureSearch:
            said = run.denoiser.encode([target])
            distance = frozen_distances(damage, everything.conditioning, said, run.report.check)
            return MixtureSearch(
                everything.rows(distance.argsort()[: self.candidates].tolist()),
                lambda mixed: adversarial_gain(damage, said, mixed, self.retain_weight, maps=not anchor),
                temperature=self.temperature,
                mixed=self.mixed,
                learning_rate=self.search_learning_rate,
                generator=run.generator,
                descent=scaled_adam(run.denoiser, run.report),
            )

        return Search({pair.target: search_of(pair.target, pair.anchor) for pair in run.request.pairs}, damage)

    def losses(self, run: Training, state: Search) -> dict[str, Tensor]:
        """`erase` (L1), `mixture` (L2), and `retain` if the user named something to retain. A line with an anchor
        maps the target to the anchor; the search then only names what is preserved."""
        pair = run.request.pairs[run.step % len(run.request.pairs)]
        search = state.by_target[pair.target]
        for _ in range(self.search_steps):
            search.step(run.step / run.steps)
        run.report.costs["UNet_evaluations_for_the_search"] = state.damage.evaluations
        with torch.no_grad():
            mixture = search.draw()
        words = search.words(mixture)
        for word in words:
            run.report.adversarial[word] += 1

        target, rows = run.pool.draw(pair.target, self.batch)
        sentences = contexts_of(run, pair.target, rows)
        kept, kept_sentences = self._noisy_mixture(run, words)
        said = blended_sentences(run, words, mixture.weights, [*sentences, *kept_sentences])
        mapped = replace(target, conditioning=said.rows(slice(0, self.batch)))
        kept = replace(kept, conditioning=said.rows(slice(self.batch, None)))
        both = NoisyBatch.cat([mapped, kept])
        becomes, stays = run.pool.predict(both).split([self.batch, self.preserved])
        if pair.anchor:
            becomes = run.pool.anchor_predictions(pair.target, pair.anchor, rows)
        neutral = run.pool.anchor_predictions(pair.target, pair.neutral, rows)
        desired = negative_guidance(becomes, target.conditional, neutral, self.negative_guidance)

        predicted, predicted_kept = run.predict(target, kept)
        erase = run.error(predicted, desired, target.sigma)
        retain = run.error(predicted_kept, stays, kept.sigma)
        terms = {"erase": erase, "mixture": self.retain_weight * retain}
        return terms | run.retain_loss(self.retain_weight, self.batch, self.retain_trajectories)

    def _noisy_mixture(self, run: Training, words: Sequence[str]) -> tuple[NoisyBatch, list[PromptTemplate]]:
        """`preserved` noisy samples of the mixture's words in turn, the heaviest first, and their contexts."""
        run.pool.fill(words, self.retain_trajectories)
        drawn = [(word, *run.pool.draw(word, 1)) for word in (list(words) * self.preserved)[: self.preserved]]
        contexts = [contexts_of(run, word, rows)[0] for word, _, rows in drawn]
        return NoisyBatch.cat([samples for _, samples, _ in drawn]), contexts


def contexts_of(run: Training, concept: str, rows: Tensor) -> list[PromptTemplate]:
    """The contexts of the rows of `pool.samples(concept)`, whose outermost order is the noise level."""
    contexts = run.pool.contexts(concept)
    return [contexts[row % len(contexts)] for row in rows.tolist()]


def blended_sentences(
    run: Training, words: Sequence[str], weights: Tensor, contexts: Sequence[PromptTemplate]
) -> Conditioning:
    """For each context the mixture of its sentences with each of the words."""
    return blended(run.denoiser.encode([c.with_concept(word) for c in contexts for word in words]), weights)
