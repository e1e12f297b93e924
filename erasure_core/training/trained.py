"""The base of trained methods: their common settings, and an erasure in named steps (start, learn, edit)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..concepts import ErasureRequest
from ..denoiser import Denoiser
from ..erased_unet import ErasedUNet, weight_edit
from ..memory.micro_batches import MicroBatched
from ..memory.planning import planned
from ..method import ErasureMethod, check_prompts, provenance, setting
from ..report import STEPS, Report, Work
from .deltas import Deltas
from .run import Training, optimise, pool_for
from .settings import (
    block_checkpointing,
    edit_rank,
    layer_group,
    noise_level_weighting,
    optimiser_steps,
    sampling_length,
    sampling_scale,
    step_size,
    target_trajectories,
)
from .trajectory import NoisyBatch, sample_trajectories

__all__ = ["TrainedMethod", "Training"]


@dataclass(frozen=True, kw_only=True)
class TrainedMethod(ErasureMethod):
    """A method that learns deltas by gradient descent. A subclass gives `losses`, and `prepare` if it keeps a state.

    `draws_targets` is False for a method that draws other noisy samples than the targets' own, in `prepare`;
    `uses_anchor` is False for one whose target becomes something else than the anchor, and then the report says so;
    `in_micro_batches` is False for one that listens to the network or changes it around a prediction: a micro-batch is
    computed again in the backward pass, when that is over.
    """

    needs: ClassVar[tuple[str, ...]] = ("gradients",)
    draws_targets: ClassVar[bool] = True
    in_micro_batches: ClassVar[bool] = True
    uses_anchor: ClassVar[bool] = True

    layers: str = layer_group()
    steps: int = optimiser_steps()
    learning_rate: float = step_size()
    rank: int = edit_rank()
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
        """The most samples of trajectories that the run keeps in memory."""
        runs = len(request.targets) * self.draws_targets + len(request.retain)
        return runs * self.trajectories * self.sampling_steps

    def work(self, request: ErasureRequest) -> Work:
        """See `ErasureMethod.work`."""
        return {
            **super().work(request),
            STEPS: (self.steps * len(request.pairs), 3.0 * self.samples_in_a_step(request)),
        }

    def prepare(self, run: Training) -> Any:
        """The method's own state during the run; the deltas are attached and still zero."""
        return None

    def losses(self, run: Training, state: Any) -> dict[str, Tensor]:
        """The named loss terms of one optimiser step, scalars with gradient; their sum is minimised."""
        raise TypeError(f"{type(self).__name__} does not say what it minimises: implement losses()")

    def finish(self, run: Training, state: Any) -> None:
        """Called after the last optimiser step, before the deltas are exported."""

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
            run.pool.micro_batched,
        )
        run.pool.count(2 * len(samples.sigma))
        return samples

    def _plan_memory(self, run: Training) -> None:
        """Choose how the run fits into memory, and note it in the report; the deltas must be attached."""
        if not self.in_micro_batches and self.checkpointing == "on":
            run.report.note(f"{self.name} acts on the network around its predictions, and cannot use checkpointing")
        blocks = run.denoiser.blocks("checkpointed") if self.in_micro_batches and self.checkpointing != "off" else {}
        plan = planned(
            run.denoiser,
            run.deltas.parameters(),
            blocks,
            run.report,
            step=self.samples_in_a_step(run.request),
            samples=self.samples_kept(run.request),
            checkpointing=self.checkpointing,
            in_micro_batches=self.in_micro_batches,
        )
        run.pool.kept_on = plan.samples_on
        if self.in_micro_batches:
            batched = MicroBatched(run.denoiser.predict, run.report.note, run.deltas.parameters(), blocks.values())
            batched.micro_batch, batched.checkpointing = plan.micro_batch, plan.checkpointing
            run.micro_batched = batched

    def erase(self, denoiser: Denoiser, request: ErasureRequest, report: Report) -> ErasedUNet:
        """See `ErasureMethod.erase`."""
        run = self._start(denoiser, request, report)
        state = self._learn(run)
        return self.result(run, state, self._edit(run))

    def _start(self, denoiser: Denoiser, request: ErasureRequest, report: Report) -> Training:
        """Check what can be checked before anything is computed, and assemble the run."""
        check_prompts(denoiser, request)
        if not self.uses_anchor and any(pair.anchor for pair in request.pairs):
            report.note(f"{self.name} ignores anchors: targets will not turn into the concept after '=>'")
        generator = torch.Generator().manual_seed(self.seed)
        rows = denoiser.rows(self.layers)
        deltas = Deltas(denoiser.layers(self.layers), self.rank * len(request.pairs), generator, rows)
        pool = pool_for(denoiser, request, report, deltas, generator, self.sampling_steps, self.guidance_scale)
        steps = self.steps * len(request.pairs)
        return Training(denoiser, request, deltas, pool, generator, report, steps, weighting=self.loss_weighting)

    def _learn(self, run: Training) -> Any:
        """Train the deltas; what `prepare` returned. Afterwards the network is the frozen one again."""
        with run.denoiser.learning(), run.deltas.attached():
            self._plan_memory(run)
            if self.draws_targets:
                concepts = (*run.request.targets, *run.request.wider)
                run.pool.fill(concepts, self.trajectories, away_from_neutral=True)
            state = self.prepare(run)
            optimise(run, run.steps, self.learning_rate, lambda: self.losses(run, state))
            self.finish(run, state)
        run.report.costs["UNet_evaluations_for_trajectories"] = run.pool.evaluations
        return state

    def _edit(self, run: Training) -> ErasedUNet:
        """The trained deltas as an edit. Raises ValueError if they change nothing."""
        erased = ErasedUNet(weight_edit(run.deltas.export()), provenance(self, run.denoiser, run.request))
        if erased.is_zero():
            raise ValueError(
                f"the erasure changed nothing: after {self.steps} optimiser steps every delta is zero. "
                f"Raise learning_rate (now {self.learning_rate:g}) or steps"
            )
        return erased

    def result(self, run: Training, state: Any, erased: ErasedUNet) -> ErasedUNet:
        """The result of `erase`: the edit of the weights, with anything else that the method learned."""
        return erased
