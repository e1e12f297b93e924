"""Trajectories: the noisy latents of the frozen model's guided sampling runs, from noise to a picture of a prompt.

A run passes every noise level and computes the frozen model's prediction for the prompt at each, and for what guidance leads
away from. Both are kept with the latents, so that an optimiser step needs no teacher call. AP's reference code draws one
partial run for each latent (about 25 guided calls), and scores the latent at a noise level other than its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from ..denoiser import Conditioning, Denoiser
from ..guidance import classifier_free, euler_step
from ..memory.micro_batches import MicroBatched, Predict
from ..report import Check, unwatched
from ..text.prompt_templates import PromptTemplate, draw_templates

SAMPLES_AT_ONCE = 16
"""Micro-batch of the frozen model's predictions: enough to fill a GPU; more would need more memory than an optimiser step."""


@dataclass(frozen=True)
class NoisyBatch:
    """n latents (n, channels, ...) at noise levels sigma (n,), the prompts they were drawn for, and the frozen model's
    predictions for these: with the prompt, and with what guidance led away from (NaN where there was no guidance)."""

    latents: Tensor
    sigma: Tensor
    conditioning: Conditioning
    conditional: Tensor
    unconditional: Tensor

    def rows(self, index: Tensor) -> NoisyBatch:
        """The chosen samples, in that order."""
        return self._each(lambda tensor: tensor[index], self.conditioning.rows(index))

    def spread(self, n: int) -> NoisyBatch:
        """n of the samples, evenly spread over all of them, the ends left out."""
        places = torch.linspace(0, len(self.sigma) - 1, n + 2)[1:-1].round().long()
        return self.rows(places.to(self.sigma.device))

    def to(self, device: torch.device) -> NoisyBatch:
        """The same samples on that device."""
        return self._each(lambda tensor: tensor.to(device), self.conditioning.to(device))

    def _each(self, change: Callable[[Tensor], Tensor], text: Conditioning) -> NoisyBatch:
        latents, sigma, *predictions = map(change, (self.latents, self.sigma, self.conditional, self.unconditional))
        return NoisyBatch(latents, sigma, text, *predictions)

    @staticmethod
    def cat(batches: Sequence[NoisyBatch]) -> NoisyBatch:
        """All samples of the batches, in order."""
        return NoisyBatch(
            torch.cat([batch.latents for batch in batches]),
            torch.cat([batch.sigma for batch in batches]),
            Conditioning.cat([batch.conditioning for batch in batches]),
            torch.cat([batch.conditional for batch in batches]),
            torch.cat([batch.unconditional for batch in batches]),
        )


@torch.no_grad()
def sample_trajectories(
    denoiser: Denoiser,
    conditioning: Conditioning,
    steps: int,
    guidance_scale: float,
    generator: torch.Generator,
    check: Check = unwatched,
    predict: Predict | None = None,
    away_from: Conditioning | None = None,
) -> tuple[NoisyBatch, Tensor]:
    """One sampling run a prompt, as `Denoiser.sampling` allows it: the samples at all noise levels (steps times n, noise
    level outermost), and the finished latents (n, channels, ...). See `guided_run`."""
    n = len(conditioning)
    shape = denoiser.empty_latents(n).shape
    noise = torch.randn(shape, generator=generator).to(denoiser.device)
    run = list(guided_run(denoiser, conditioning, noise, steps, guidance_scale, check, predict, away_from))
    return NoisyBatch.cat([sample for sample, _ in run]), run[-1][1]


@torch.no_grad()
def guided_run(
    denoiser: Denoiser,
    conditioning: Conditioning,
    noise: Tensor,
    steps: int,
    guidance_scale: float,
    check: Check = unwatched,
    predict: Predict | None = None,
    away_from: Conditioning | None = None,
) -> Iterator[tuple[NoisyBatch, Tensor]]:
    """The steps of a guided sampling run from unit noise (n, channels, ...), as many as `Denoiser.sampling` allows: at each
    noise level the samples there, and the latents (n, channels, ...) that follow.

    Guidance leads away from `away_from`, n prompts, or from the empty prompt: two evaluations of the network a sample, by
    `predict` if it is given, when a step is asked for. At a guidance scale of 1, which leads nowhere, it is one, unless
    `away_from` is given.
    """
    n = len(conditioning)
    steps, guidance_scale = denoiser.sampling(steps, guidance_scale)
    sigmas = denoiser.sigmas(steps).to(denoiser.device)
    if away_from is None and guidance_scale != 1:
        away_from = denoiser.encode([""]).repeat(n)
    prompts = Conditioning.cat([conditioning, away_from]) if away_from is not None else conditioning
    calls = len(prompts) // n
    latents = noise * sigmas[0]
    for step, (sigma, next_sigma) in enumerate(itertools.pairwise(sigmas), 1):
        check(f"sampling step {step} of {steps}, {n} at once")
        predicted = (predict or denoiser.predict)(torch.cat([latents] * calls), sigma.expand(calls * n), prompts)
        conditional, unconditional = predicted[:n], predicted[n:]
        if calls == 1:
            unconditional = torch.full_like(conditional, torch.nan)
        guided = classifier_free(unconditional, conditional, guidance_scale)
        sample = NoisyBatch(latents, sigma.expand(n), conditioning, conditional, unconditional)
        latents = euler_step(latents, guided, sigma, next_sigma)
        yield sample, latents


class TrajectoryPool:
    """Trajectories of the frozen model by concept, drawn when a concept is first asked for and then kept, each with the
    concept in another template, none of which says a word of `avoid` (`synonyms.template_words_like`).

    They are stored on the device `kept_on` and returned on the denoiser's. `micro_batched` predicts without gradients, in
    micro-batches that fit into memory; `say(text)` is called when it halves them. `evaluations` counts samples that the
    network was evaluated on.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        *,
        steps: int,
        guidance_scale: float,
        generator: torch.Generator,
        avoid: Collection[str] = (),
        frozen: Callable[[], AbstractContextManager] = nullcontext,
        check: Check = unwatched,
        say: Callable[[str], object] = unwatched,
    ) -> None:
        self.kept_on = denoiser.device
        self.micro_batched = MicroBatched(denoiser.predict, say, doing=" without gradients")
        self.micro_batched.micro_batch = SAMPLES_AT_ONCE
        self._denoiser, self._steps, self._scale = denoiser, steps, guidance_scale
        self._generator, self._avoid, self._frozen, self._check = generator, avoid, frozen, check
        self._samples: dict[str, NoisyBatch] = {}
        self._templates: dict[str, list[PromptTemplate]] = {}
        self._anchors: dict[tuple[str, str], Tensor] = {}
        self.evaluations = 0

    def count(self, evaluations: int) -> None:
        """Add evaluations that sampling runs outside the pool have made."""
        self.evaluations += evaluations

    def fill(
        self,
        concepts: Sequence[str],
        runs: int,
        steps: int | None = None,
        *,
        guidance_scale: float | None = None,
        away_from_neutral: bool = False,
    ) -> None:
        """Draw `runs` trajectories for each concept that has none yet, all in one batch. Sampling steps and guidance scale are
        the pool's if they are not given.

        With `away_from_neutral` guidance leads away from what the sentence says without the concept, not from the empty
        prompt: `anchor_predictions(concept, "")` are then known, which would take half as many evaluations again.
        """
        scale = self._scale if guidance_scale is None else guidance_scale
        missing = [concept for concept in dict.fromkeys(concepts) if concept not in self._samples]
        if not missing:
            return
        prompts, neutral = [], []
        for concept in missing:
            self._templates[concept] = draw_templates(concept, runs, self._generator, self._avoid)
            prompts += [template.with_concept(concept) for template in self._templates[concept]]
            neutral += [template.neutral for template in self._templates[concept]]
        with self._frozen():
            samples, _ = sample_trajectories(
                self._denoiser,
                self._denoiser.encode(prompts),
                steps or self._steps,
                scale,
                self._generator,
                self._check,
                self.counted,
                self._denoiser.encode(neutral) if away_from_neutral else None,
            )
        column = torch.arange(len(samples.sigma)) % len(prompts)  # the noise level is outermost
        for i, concept in enumerate(missing):
            mine = samples.rows((column // runs == i).nonzero().squeeze(1)).to(self.kept_on)
            self._samples[concept] = mine
            if away_from_neutral:
                self._anchors[concept, ""] = mine.unconditional

    def counted(self, latents: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        """The present network's predictions without gradients, counted among the pool's evaluations."""
        self.evaluations += len(sigma)
        return self.micro_batched(latents, sigma, conditioning)

    def has(self, concepts: Sequence[str]) -> bool:
        """Whether all of these have their trajectories."""
        return all(concept in self._samples for concept in concepts)

    @torch.no_grad()
    def predict(self, batch: NoisyBatch) -> Tensor:
        """The frozen model's predictions for a batch."""
        with self._frozen():
            return self.micro_batched(batch.latents, batch.sigma, batch.conditioning)

    def templates(self, concept: str) -> list[PromptTemplate]:
        """The templates of a filled concept's trajectories, in order."""
        return self._templates[concept]

    def templates_of(self, concept: str, rows: Tensor) -> list[PromptTemplate]:
        """The template of each of these rows of `samples(concept)`."""
        templates = self._templates[concept]
        return [templates[row % len(templates)] for row in rows.tolist()]

    def samples(self, concept: str) -> NoisyBatch:
        """All samples of a concept that was filled."""
        return self._samples[concept].to(self._denoiser.device)

    def samples_at(self, concept: str, rows: Tensor) -> NoisyBatch:
        """The samples in these rows of `samples(concept)`."""
        return self._samples[concept].rows(rows).to(self._denoiser.device)

    def draw(self, concept: str, n: int) -> tuple[NoisyBatch, Tensor]:
        """n random samples of a filled concept, and their rows in `samples(concept)`."""
        rows = torch.randint(len(self._samples[concept].sigma), (n,), generator=self._generator)
        return self.samples_at(concept, rows), rows

    @torch.no_grad()
    def anchor_predictions(self, target: str, anchor: str, rows: Tensor | slice = slice(None)) -> Tensor:
        """The frozen model's predictions on the samples of `target` in those rows, in their order, with `anchor` in its
        place in the sentence; for the anchor "", those for what the sentence says without it."""
        if (target, anchor) not in self._anchors:
            samples, templates = self.samples(target), self._templates[target]
            with self._frozen():
                conditioning = self._denoiser.encode([template.with_concept(anchor) for template in templates])
                predictions = []
                for level in torch.arange(len(samples.sigma), device=samples.sigma.device).split(len(templates)):
                    self._check(f"predicting what {target!r} is to become")
                    predictions.append(self.micro_batched(samples.latents[level], samples.sigma[level], conditioning))
            self.evaluations += len(samples.sigma)
            self._anchors[target, anchor] = torch.cat(predictions).to(self.kept_on)
        return self._anchors[target, anchor][rows].to(self._denoiser.device)
