"""Safe self-Distillation (SDD), arXiv 2307.05977: the model teaches itself that the target says nothing.

||eps_edit(z, c) - sg eps_edit(z, null)||^2, the concepts taking turns. Both predictions are the live student's; a slow
copy, theta_slow <- m theta_slow + (1 - m) theta, draws the noisy latents z and is what is saved.
Here null is what the sentence says without the target, as in `prompt_templates.py`; for the bare target, the empty prompt.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..denoiser import Conditioning
from ..method import setting
from ..training.deltas import Deltas
from ..training.settings import retaining, step_size
from ..training.trained import TrainedMethod, Training
from ..training.trajectory import NoisyBatch


class SlowCopy:
    """An exponential moving average of the deltas' trainable tensors; it starts where the deltas start, at no edit."""

    def __init__(self, deltas: Deltas, decay: float) -> None:
        self._deltas, self._decay = deltas, decay
        self._state = deltas.state()

    @torch.no_grad()
    def update(self) -> None:
        """Move a little towards the live deltas."""
        for mean, value in zip(self._state, self._deltas.parameters(), strict=True):
            mean.lerp_(value, 1 - self._decay)

    def keep(self) -> None:
        """Put the average into the deltas, for good."""
        self._deltas.restore(self._state)

    @contextmanager
    def acting(self) -> Iterator[None]:
        """Inside, the network is the slow copy; afterwards the deltas are the live ones again."""
        live = self._deltas.state()
        self.keep()
        try:
            yield
        finally:
            self._deltas.restore(live)


@dataclass(frozen=True)
class TargetSamples:
    """Noisy samples of a target in its sentences, and for each the sentence without the target."""

    samples: NoisyBatch
    without: Conditioning


@dataclass
class Distillation:
    """SDD's state: the slow copy, and the samples that it has drawn, by target."""

    slow: SlowCopy
    drawn: dict[str, TargetSamples]


@dataclass(frozen=True, kw_only=True)
class SafeSelfDistillation(TrainedMethod):
    """Let the target's prediction be the student's own prediction without it, and save the slow copy."""

    name = "sdd"
    title = "SDD: self-distillation with a slow copy"
    paper = "arXiv 2307.05977"

    learning_rate: float = step_size(3e-3)
    ema_decay: float = setting(
        0.9,
        "How slowly the copy that is saved follows the student (m). The paper's 0.999 belongs to its 1500 steps: with few "
        "steps it saves next to no edit.",
        minimum=0.0,
        maximum=0.9999,
        step=0.001,
    )
    refreshes: int = setting(
        1,
        "How often during the run the slow copy draws the noisy samples anew; 0 keeps the frozen model's.",
        minimum=0,
        maximum=100,
        advanced=True,
    )
    guard_weight: float = setting(
        1.0,
        "Weight of leaving the prediction without the target where the frozen model has it; at 0, the paper, nothing "
        "keeps it from drifting.",
        minimum=0.0,
        maximum=100.0,
        step=0.1,
    )
    retain_weight: float = retaining()

    def prepare(self, run: Training) -> Distillation:
        """The slow copy, which is still the frozen model, so that the pool's samples are its own."""
        state = Distillation(SlowCopy(run.deltas, self.ema_decay), {})
        for pair in run.request.pairs:
            text = run.denoiser.encode([one.with_concept(pair.anchor) for one in run.pool.templates(pair.target)])
            samples = run.pool.samples(pair.target)
            without = Conditioning.cat([text] * (len(samples.sigma) // len(text)))
            state.drawn[pair.target] = TargetSamples(samples, without)
        return state

    def finish(self, run: Training, state: Distillation) -> None:
        """Save the slow copy in place of the student."""
        state.slow.update()
        state.slow.keep()

    def _refresh(self, run: Training, state: Distillation) -> None:
        with state.slow.acting():
            for target, drawn in state.drawn.items():
                sentences = [template.with_concept(target) for template in run.pool.templates(target)]
                state.drawn[target] = replace(drawn, samples=self.sample(run, sentences))

    def losses(self, run: Training, state: Distillation) -> dict[str, Tensor]:
        """`erase`, `guard` unless its weight is 0, and `retain` if the user named something to retain."""
        if run.step:
            state.slow.update()
        if run.step in refresh_steps(run.steps, self.refreshes):
            self._refresh(run, state)
        drawn = state.drawn[run.in_turn(run.request.targets)]
        rows = torch.randint(len(drawn.samples.sigma), (self.batch,), generator=run.generator)
        rows = rows.to(drawn.samples.sigma.device)
        target = drawn.samples.rows(rows)
        without = replace(target, conditioning=drawn.without.rows(rows))
        predicted, predicted_without = run.predict(target, without)
        terms = {"erase": run.error(predicted, predicted_without.detach(), target.sigma)}
        if self.guard_weight:
            guard = run.error(predicted_without, run.pool.predict(without), without.sigma)
            terms["guard"] = self.guard_weight * guard
        return terms | run.retain_loss(self.retain_weight, self.batch, self.trajectories)


def refresh_steps(steps: int, refreshes: int) -> set[int]:
    """The optimiser steps before which the samples are drawn anew: evenly spread, never the first."""
    return {round(steps * (i + 1) / (refreshes + 1)) for i in range(refreshes)} - {0, steps}
