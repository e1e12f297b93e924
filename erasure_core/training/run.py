"""A running erasure: what `losses` may use, how it is assembled, and the one optimisation loop."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from ..concepts import ConceptPair, ErasureRequest
from ..denoiser import Denoiser
from ..guidance import negative_guidance, per_sample, squared_error
from ..memory.micro_batches import MicroBatched
from ..report import Report
from ..text.prompt_templates import rivals
from ..text.synonyms import template_words_like
from .deltas import Deltas
from .optimiser import scaled_adam, slowed
from .trajectory import NoisyBatch, TrajectoryPool

T = TypeVar("T")


@dataclass
class Training:
    """A running erasure: what a method's `losses` may use. `step` counts from 0 to `steps` - 1."""

    denoiser: Denoiser
    request: ErasureRequest
    deltas: Deltas
    pool: TrajectoryPool
    generator: torch.Generator
    report: Report
    steps: int = 1
    step: int = 0
    weighting: str = "x0"
    micro_batched: MicroBatched | None = None

    def pick(self, items: Sequence[T]) -> T:
        """One of `items`, drawn evenly."""
        return items[int(torch.randint(len(items), (), generator=self.generator))]

    def in_turn(self, items: Sequence[T]) -> T:
        """One of `items`, which take turns step by step."""
        return items[self.step % len(items)]

    def samples_of(self, pair: ConceptPair, n: int, eta: float) -> tuple[NoisyBatch, Tensor]:
        """n noisy samples of one target, and the desired predictions for them."""
        samples, rows = self.pool.draw(pair.target, n)
        anchor = self.pool.anchor_predictions(pair.target, pair.anchor, rows)
        neutral = self.pool.anchor_predictions(pair.target, pair.neutral, rows)
        return samples, negative_guidance(anchor, samples.conditional, neutral, eta)

    def around(self, pair: ConceptPair, n: int, eta: float) -> tuple[NoisyBatch, Tensor]:
        """n noisy samples of the wider concept c_w that a target c_t is inside of, and the desired predictions for them,
        eps(c_w) - eta (eps(c_t) - eps(c_w)): what is drawn for c_w is no c_t, and still a c_w.

        ESD's `erase_from` (the code of arXiv 2303.07345), with c_w where that has the empty prompt: the target says the
        wider concept, which would be pushed away with it. A sentence that rules the target out, "a blue circle" where that
        is "red circle", is held as it is.
        """
        samples, rows = self.pool.draw(pair.anchor, n)
        inside = self.pool.anchor_predictions(pair.anchor, pair.target, rows)
        others = rivals(self.request.told_apart_by)
        templates = self.pool.templates_of(pair.anchor, rows)
        ruled_out = torch.tensor([bool(others.intersection(one.template.split())) for one in templates])
        pushed = per_sample((~ruled_out).to(inside) * eta, inside)
        return samples, negative_guidance(samples.conditional, inside, samples.conditional, pushed)

    def targets(self, n: int, eta: float) -> tuple[NoisyBatch, Tensor]:
        """n noisy samples and the desired predictions for them. The targets take turns sample by sample: steps that
        pull by one target alone, each another way, forget one of them in the end. Every other sample of a target inside
        a wider concept is one of that concept."""
        pairs = self.request.pairs
        drawn = []
        for index, count in Counter((self.step * n + i) % len(pairs) for i in range(n)).items():
            # of an odd count the wider concept gets the odd sample in every other step
            wider = (count + self.step % 2) // 2 if pairs[index].inside else 0
            if count > wider:
                drawn.append(self.samples_of(pairs[index], count - wider, eta))
            if wider:
                drawn.append(self.around(pairs[index], wider, eta))
        return NoisyBatch.cat([samples for samples, _ in drawn]), torch.cat([desired for _, desired in drawn])

    def retained(self, concepts: Sequence[str], runs: int) -> NoisyBatch:
        """One noisy sample of each concept; new concepts get their trajectories first, in `runs` sampling runs each."""
        self.pool.fill(concepts, runs)
        return NoisyBatch.cat([self.pool.draw(concept, 1)[0] for concept in concepts])

    def error(self, predicted: Tensor, desired: Tensor, sigma: Tensor) -> Tensor:
        """Mean squared error over n predictions at noise levels sigma (n,), weighted as the method's setting says."""
        return squared_error(predicted, desired, sigma, self.weighting).mean()

    def erase_and_retain(self, target: NoisyBatch, desired: Tensor, retained: NoisyBatch) -> tuple[Tensor, Tensor]:
        """The two terms of most methods, from one call: ||eps_edit(target) - desired||^2, and ||eps_edit - eps||^2 on the
        retained samples."""
        predicted, predicted_retained = self.predict(target, retained)
        erase = self.error(predicted, desired, target.sigma)
        return erase, self.error(predicted_retained, retained.conditional, retained.sigma)

    def retain_loss(self, weight: float, n: int, runs: int) -> dict[str, Tensor]:
        """`retain`: how far n noisy samples of the user's retain lines have moved, times `weight`; no term without any."""
        if not self.request.retain or not weight:
            return {}
        retained = self.retained([self.pick(self.request.retain) for _ in range(n)], runs)
        (predicted,) = self.predict(retained)
        return {"retain": weight * self.error(predicted, retained.conditional, retained.sigma)}

    def predict(self, *batches: NoisyBatch) -> list[Tensor]:
        """The edited network's predictions for each batch, from one call, or in micro-batches once memory ran out."""
        everything = NoisyBatch.cat(batches)
        self.report.costs["UNet_evaluations_with_gradient"] += len(everything.sigma)
        call = self.micro_batched or self.denoiser.predict
        predicted = call(everything.latents, everything.sigma, everything.conditioning)
        return list(predicted.split([len(batch.sigma) for batch in batches]))


def pool_for(
    denoiser: Denoiser,
    request: ErasureRequest,
    report: Report,
    deltas: Deltas,
    generator: torch.Generator,
    sampling_steps: int,
    guidance_scale: float,
    avoid: Collection[str] | None = None,
) -> TrajectoryPool:
    """An empty pool of trajectories of the network without the deltas. No template says a word that means a target, or a
    word of `avoid`: if it is not given, those by which targets differ from their wider concepts."""
    return TrajectoryPool(
        denoiser,
        steps=sampling_steps,
        guidance_scale=guidance_scale,
        generator=generator,
        avoid=template_words_like(denoiser, request.targets).union(request.told_apart_by if avoid is None else avoid),
        frozen=deltas.disabled,
        check=report.check,
        say=report.note,
    )


def optimise(run: Training, steps: int, learning_rate: float, losses: Callable[[], dict[str, Tensor]]) -> None:
    """Minimise the sum of `losses()` over the deltas with Adam; the last fifth of the steps slows down to zero.

    Raises FloatingPointError, naming the step and the terms, if a loss is not finite.
    """
    optimiser = scaled_adam(run.denoiser, run.report)(run.deltas.parameters(), learning_rate)
    for step in range(steps):
        run.report.check()
        run.step, values = step, {}
        try:
            terms = losses()
            values = {name: float(term.detach()) for name, term in terms.items()}
            optimiser.step(sum(terms.values(), start=torch.zeros(())), slowed(learning_rate, step, steps))
        except FloatingPointError as error:
            raise FloatingPointError(f"{error} (optimiser step {step + 1} of {steps}; losses {values})") from error
        run.report.log(values)
        run.report.on_progress(step + 1, steps, sum(values.values()))
        run.report.on_preview(step + 1)
