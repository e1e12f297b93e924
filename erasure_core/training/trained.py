"""The bases of trained methods: how any of them assembles its runs and fits them into memory, and of those that learn one
edit by `losses` the common settings and the erasure in named steps (start, learn, edit)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..concepts import ErasureRequest
from ..denoiser import Denoiser
from ..erased_unet import ErasedUNet, weight_edit
from ..memory.checkpointing import by_block
from ..memory.micro_batches import MicroBatched
from ..memory.planning import Plan, planned
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

__all__ = ["GradientMethod", "TrainedMethod", "Training"]


class GradientMethod(ErasureMethod):
    """A method that learns by gradient descent, all concepts in one run or each in its own. It makes a run by `assemble`,
    asks once for a `plan`, and learns inside `learning`. A subclass has the settings named here, among its own.

    `in_micro_batches` is False for a method that listens to the network or changes it around a prediction: a micro-batch is
    computed again in the backward pass, when that is over. Its batches stay whole, with checkpointing or without.
    `uses_anchor` is False for one whose target becomes something else than the anchor.
    """

    in_micro_batches: ClassVar[bool] = True
    uses_anchor: ClassVar[bool] = True

    steps: int
    batch: int
    guidance_scale: float
    sampling_steps: int
    trajectories: int
    checkpointing: str
    loss_weighting: str = "x0"

    def samples_in_a_step(self, request: ErasureRequest) -> int:
        """The most samples that a run asks predictions with gradient for in one call: what memory is planned for."""
        return 2 * self.batch

    def samples_kept(self, request: ErasureRequest) -> int:
        """The most samples of trajectories that a run keeps in memory; here of one concept, and the wider one that it is
        inside of."""
        return (1 + bool(request.wider)) * self.trajectories * self.sampling_steps

    def work(self, request: ErasureRequest) -> Work:
        """See `ErasureMethod.work`."""
        return {
            **super().work(request),
            STEPS: (self.steps * len(request.pairs), 3.0 * self.samples_in_a_step(request)),
        }

    def assemble(
        self,
        denoiser: Denoiser,
        request: ErasureRequest,
        deltas: Deltas,
        generator: torch.Generator,
        report: Report,
        avoid: Collection[str] | None = None,
    ) -> Training:
        """A run that learns these deltas on an empty pool, whose templates say no word of `avoid` (`pool_for`)."""
        sampling = (self.sampling_steps, self.guidance_scale)
        pool = pool_for(denoiser, request, report, deltas, generator, *sampling, avoid)
        return Training(denoiser, request, deltas, pool, generator, report, self.steps, weighting=self.loss_weighting)

    def plan(self, run: Training, request: ErasureRequest) -> Plan:
        """How `run`, and any like it that `request` takes after it, fits into memory; the report says it in a line."""
        with run.deltas.attached():
            return planned(
                run.denoiser,
                run.deltas.parameters(),
                self._blocks(run),
                run.report,
                step=self.samples_in_a_step(request),
                samples=self.samples_kept(request),
                checkpointing=self.checkpointing,
                in_micro_batches=self.in_micro_batches,
            )

    @contextmanager
    def learning(self, run: Training, plan: Plan) -> Iterator[None]:
        """Inside, the run's predictions keep to the plan; on leaving, its sampling runs are counted in the report."""
        blocks = self._blocks(run).values()
        run.pool.kept_on = plan.samples_on
        if self.in_micro_batches:
            batched = MicroBatched(run.denoiser.predict, run.report.note, run.deltas.parameters(), blocks)
            batched.micro_batch, batched.checkpointing = plan.micro_batch, plan.checkpointing
            run.micro_batched = batched
        whole = blocks if plan.checkpointing and not self.in_micro_batches else ()
        # what is done once is kept: a plan that computes blocks twice to save memory has none for that
        once = nullcontext() if plan.checkpointing else run.denoiser.learning(text_as_it_is=not self.in_micro_batches)
        with once, by_block(whole):
            yield
        run.report.costs["UNet_evaluations_for_trajectories"] += run.pool.evaluations

    def draw_targets(self, run: Training) -> None:
        """Draw the trajectories of the run's targets and wider concepts. Guidance leads away from the sentence without the
        concept: what the network predicts for that is what the target is to become."""
        run.pool.fill((*run.request.targets, *run.request.wider), self.trajectories, away_from_neutral=True)

    def _blocks(self, run: Training) -> dict[str, nn.Module]:
        return run.denoiser.blocks("checkpointed") if self.checkpointing != "off" else {}


@dataclass(frozen=True, kw_only=True)
class TrainedMethod(GradientMethod):
    """A method that learns the deltas of one edit. A subclass gives `losses`, and `prepare` if it keeps a state.

    `draws_targets` is False for a method that draws other noisy samples than the targets' own, in `prepare`. One that does not
    use anchors says so in the report.
    """

    needs: ClassVar[tuple[str, ...]] = ("gradients",)
    draws_targets: ClassVar[bool] = True

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

    def samples_kept(self, request: ErasureRequest) -> int:
        """See `GradientMethod`; of all targets and retain lines, wider concepts among these."""
        # a wider concept is among what is retained
        runs = len(request.targets) * self.draws_targets + len(request.retain)
        return runs * self.trajectories * self.sampling_steps

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
            run.pool.counted,
        )
        return samples

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
        run = self.assemble(denoiser, request, deltas, generator, report)
        run.steps = self.steps * len(request.pairs)
        return run

    def _learn(self, run: Training) -> Any:
        """Train the deltas; what `prepare` returned. Afterwards the network is the frozen one again."""
        with self.learning(run, self.plan(run, run.request)), run.deltas.attached():
            if self.draws_targets:
                self.draw_targets(run)
            state = self.prepare(run)
            optimise(run, run.steps, self.learning_rate, lambda: self.losses(run, state))
            self.finish(run, state)
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
