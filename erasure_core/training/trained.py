"""The one optimisation loop, and what trained methods share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..concepts import ConceptPair, ErasureRequest
from ..denoiser import Denoiser
from ..erased_unet import ErasedUNet, weight_edit
from ..guidance import negative_guidance, per_sample, squared_error
from ..layers import GROUPS
from ..memory.micro_batches import MicroBatched
from ..memory.planning import planned
from ..method import ErasureMethod, check_prompts, provenance, setting
from ..report import STEPS, Report, Work
from ..text.prompt_templates import rivals
from ..text.synonyms import template_words_like
from .deltas import Deltas
from .optimiser import scaled_adam
from .settings import (
    block_checkpointing,
    noise_level_weighting,
    optimiser_steps,
    sampling_length,
    sampling_scale,
    step_size,
    target_trajectories,
)
from .trajectory import NoisyBatch, TrajectoryPool, sample_trajectories


@dataclass
class Training:
    """A running erasure: what a method's `losses` may use."""

    denoiser: Denoiser
    request: ErasureRequest
    deltas: Deltas
    pool: TrajectoryPool
    generator: torch.Generator
    report: Report
    steps: int = 1
    step: int = 0
    weighting: str = "x0"
    parts: MicroBatched | None = None

    def pick(self, items: Sequence[Any]) -> Any:
        """One of `items`, drawn evenly."""
        return items[int(torch.randint(len(items), (), generator=self.generator))]

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
        contexts, others = self.pool.contexts(pair.anchor), rivals(self.request.told_apart_by)
        ruled_out = [bool(others.intersection(contexts[row % len(contexts)].template.split())) for row in rows.tolist()]
        pushed = per_sample((~torch.tensor(ruled_out)).to(inside) * eta, inside)
        return samples, negative_guidance(samples.conditional, inside, samples.conditional, pushed)

    def targets(self, n: int, eta: float) -> tuple[NoisyBatch, Tensor]:
        """n noisy samples and the desired predictions for them. The targets take turns sample by sample: steps that
        pull by one target alone, each another way, forget one of them in the end. Every other sample of a target inside
        a wider concept is one of that concept."""
        pairs = self.request.pairs
        turns = Counter((self.step * n + i) % len(pairs) for i in range(n))
        parts = []
        for turn, count in turns.items():
            wider = (count + self.step % 2) // 2 if pairs[turn].inside else 0
            parts += [self.samples_of(pairs[turn], count - wider, eta)] if count > wider else []
            parts += [self.around(pairs[turn], wider, eta)] if wider else []
        return NoisyBatch.cat([samples for samples, _ in parts]), torch.cat([desired for _, desired in parts])

    def retained(self, concepts: Sequence[str], chains: int, steps: int | None = None) -> NoisyBatch:
        """One noisy sample of each concept; new concepts get their trajectories first, at `chains` runs each, of
        `steps` sampling steps if they are not to be of the usual number."""
        self.pool.fill(concepts, chains, steps)
        return NoisyBatch.cat([self.pool.draw(concept, 1)[0] for concept in concepts])

    def error(self, predicted: Tensor, desired: Tensor, sigma: Tensor) -> Tensor:
        """Mean squared error over n predictions at noise levels sigma (n,), weighted as the method's setting says."""
        return squared_error(predicted, desired, sigma, self.weighting).mean()

    def retain_loss(self, weight: float, n: int, chains: int) -> dict[str, Tensor]:
        """`retain`: how far n noisy samples of the user's retain lines have moved, times `weight`; no term without any."""
        if not self.request.retain or not weight:
            return {}
        kept = self.retained([self.pick(self.request.retain) for _ in range(n)], chains)
        (predicted,) = self.predict(kept)
        return {"retain": weight * self.error(predicted, kept.conditional, kept.sigma)}

    def predict(self, *batches: NoisyBatch) -> list[Tensor]:
        """The edited network's predictions for each batch, from one call, or in `parts` once memory ran out."""
        everything = NoisyBatch.cat(batches)
        self.report.costs["UNet_evaluations_with_gradient"] += len(everything.sigma)
        call = self.parts or self.denoiser.predict
        predicted = call(everything.latents, everything.sigma, everything.conditioning)
        return list(predicted.split([len(batch.sigma) for batch in batches]))


@dataclass(frozen=True, kw_only=True)
class TrainedMethod(ErasureMethod):
    """A method that learns deltas by gradient descent. A subclass gives `losses`, and `prepare` if it keeps a state.

    `draws_targets` is False for a method that draws other noisy samples than the targets' own, in `prepare`;
    `uses_anchor` is False for one whose target becomes something else than the anchor, and then the report says so;
    `in_parts` is False for one that listens to the network or changes it around a prediction with gradient only, for a
    part is computed again in the backward pass.
    """

    needs: ClassVar[tuple[str, ...]] = ("gradients",)
    draws_targets: ClassVar[bool] = True
    in_parts: ClassVar[bool] = True
    uses_anchor: ClassVar[bool] = True

    layers: str = setting(
        "cross_attention_kv",
        "Which layers may change: those that read the text (cross_attention_kv), more, or all others (non_cross_attention), "
        "which also act where the concept is only implied. See Layer groups in the help.",
        choices=tuple(GROUPS),
    )
    steps: int = optimiser_steps()
    learning_rate: float = step_size()
    rank: int = setting(
        8,
        "Rank of the edit for each concept. 0 trains full matrices: a larger file, seldom a better one.",
        minimum=0,
        maximum=256,
    )
    batch: int = setting(4, "Noisy samples of the target in an optimiser step.", minimum=1, maximum=64, advanced=True)
    guidance_scale: float = sampling_scale()
    sampling_steps: int = sampling_length()
    trajectories: int = target_trajectories()
    loss_weighting: str = noise_level_weighting()
    checkpointing: str = block_checkpointing()

    def samples_in_a_step(self, request: ErasureRequest) -> int:
        """The most samples that `losses` asks predictions with gradient for in one call: what memory is planned for."""
        return 2 * self.batch

    def samples_kept(self, request: ErasureRequest) -> int:
        """The most samples of trajectories that the run keeps."""
        runs = len(request.targets) * self.draws_targets + len(request.retain)
        return runs * self.trajectories * self.sampling_steps

    def work(self, request: ErasureRequest) -> Work:
        """See `ErasureMethod.work`."""
        return {
            **super().work(request),
            STEPS: (self.steps * len(request.pairs), 3.0 * self.samples_in_a_step(request)),
        }

    def prepare(self, run: Training) -> Any:
        """Whatever the method keeps during the run; the deltas are attached and still zero."""
        return None

    def losses(self, run: Training, state: Any) -> dict[str, Tensor]:
        """The named loss terms of one optimiser step, scalars with gradient; their sum is minimised."""
        raise TypeError(f"{type(self).__name__} does not say what it minimises: implement losses()")

    def finish(self, run: Training, state: Any) -> None:
        """What is left to do after the last optimiser step; the deltas are exported as this leaves them."""

    def sample(self, run: Training, prompts: Sequence[str]) -> NoisyBatch:
        """One sampling run a prompt with the network as it is now: `sampling_steps` times n noisy samples, noise level
        outermost."""
        samples, _ = sample_trajectories(
            run.denoiser,
            run.denoiser.encode(prompts),
            self.sampling_steps,
            self.guidance_scale,
            run.generator,
            run.report.check,
            run.pool.in_parts,
        )
        run.pool.evaluations += 2 * len(samples.sigma)
        return samples

    def _plan_memory(self, run: Training) -> None:
        """Choose how the run goes so that it fits into memory, and say it; the deltas are attached."""
        if not self.in_parts and self.checkpointing == "on":
            run.report.note(f"{self.name} acts on the network around its predictions, and cannot use checkpointing")
        blocks = run.denoiser.blocks("checkpointed") if self.in_parts and self.checkpointing != "off" else {}
        plan = planned(
            run.denoiser,
            run.deltas.parameters(),
            blocks,
            run.report,
            step=self.samples_in_a_step(run.request),
            kept=self.samples_kept(run.request),
            checkpointing=self.checkpointing,
            in_parts=self.in_parts,
        )
        run.pool.kept_on = plan.samples_on
        if self.in_parts:
            run.parts = MicroBatched(run.denoiser.predict, run.report.note, run.deltas.parameters(), blocks.values())
            run.parts.micro_batch, run.parts.checkpointing = plan.micro_batch, plan.checkpointing

    def result(self, run: Training, state: Any, erased: ErasedUNet) -> ErasedUNet:
        """What `erase` returns: the edit of the weights, and whatever else a method learned."""
        return erased

    def erase(self, denoiser: Denoiser, request: ErasureRequest, report: Report) -> ErasedUNet:
        """See `ErasureMethod.erase`."""
        check_prompts(denoiser, request)
        if not self.uses_anchor and any(pair.anchor for pair in request.pairs):
            report.note(f"{self.name} has no use for anchors: the targets do not become what '=>' names")
        generator = torch.Generator().manual_seed(self.seed)
        rows = denoiser.rows(self.layers)
        deltas = Deltas(denoiser.layers(self.layers), self.rank * len(request.pairs), generator, rows)
        pool = TrajectoryPool(
            denoiser,
            steps=self.sampling_steps,
            guidance_scale=self.guidance_scale,
            generator=generator,
            avoid=template_words_like(denoiser, request.targets) | request.told_apart_by,
            frozen=deltas.disabled,
            check=report.check,
            say=report.note,
        )
        run = Training(
            denoiser,
            request,
            deltas,
            pool,
            generator,
            report,
            steps=self.steps * len(request.pairs),
            weighting=self.loss_weighting,
        )
        with deltas.attached():
            self._plan_memory(run)
            if self.draws_targets:
                pool.fill((*request.targets, *request.wider), self.trajectories)
            state = self.prepare(run)
            optimise(run, run.steps, self.learning_rate, lambda: self.losses(run, state))
            self.finish(run, state)
        report.costs["UNet_evaluations_for_trajectories"] = pool.evaluations
        erased = ErasedUNet(weight_edit(deltas.export()), provenance(self, denoiser, request))
        if erased.is_zero():
            raise ValueError(
                f"the erasure changed nothing: after {self.steps} optimiser steps every delta is zero. "
                f"Raise learning_rate (now {self.learning_rate:g}) or steps"
            )
        return self.result(run, state, erased)


def optimise(run: Training, steps: int, learning_rate: float, losses: Callable[[], dict[str, Tensor]]) -> None:
    """Minimise the sum of `losses()` over the deltas with Adam; the last fifth of the steps slows down to zero.

    Raises FloatingPointError, naming the step and the terms, if a loss is not finite.
    """
    descent = scaled_adam(run.denoiser, run.report)(run.deltas.parameters(), learning_rate)
    for step in range(steps):
        run.report.check()
        run.step, values = step, {}
        try:
            terms = losses()
            values = {name: float(term.detach()) for name, term in terms.items()}
            descent.step(sum(terms.values()), learning_rate * min(1.0, 5 * (steps - step) / steps))
        except FloatingPointError as error:
            raise FloatingPointError(f"{error} (optimiser step {step + 1} of {steps}; losses {values})") from error
        run.report.log(values)
        run.report.on_progress(step + 1, steps, sum(values.values()))
        run.report.on_preview(step + 1)
