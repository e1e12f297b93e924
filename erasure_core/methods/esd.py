"""Erased Stable Diffusion (ESD), arXiv 2303.07345: distil negative guidance into the weights.

||eps_edit(z, c) - (eps(z, anchor) - eta (eps(z, c) - eps(z, "")))||^2, equation 7, on the frozen model's own latents.
With retain lines, their predictions are held where they were; the paper has no such term.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..method import setting
from ..training.trained import TrainedMethod, Training


@dataclass(frozen=True, kw_only=True)
class ErasedStableDiffusion(TrainedMethod):
    """Negative guidance alone: the baseline that the adversary of `ap` is measured against."""

    name = "esd"
    title = "ESD: negative guidance"
    paper = "arXiv 2303.07345"

    negative_guidance: float = setting(
        2.0, "How far past the anchor the target is pushed (eta in the paper).", minimum=0.0, maximum=10.0, step=0.1
    )
    retain_weight: float = setting(
        1.0, "Weight of keeping the retain lines, if there are any.", minimum=0.0, maximum=100.0, step=0.1
    )

    def losses(self, run: Training, state: None) -> dict[str, Tensor]:
        """`erase`, and `retain` if the user named something to retain."""
        target, desired = run.targets(self.batch, self.negative_guidance)
        if not run.request.retain:
            (predicted,) = run.predict(target)
            return {"erase": run.error(predicted, desired, target.sigma)}
        kept = run.retained([run.pick(run.request.retain) for _ in range(self.batch)], self.trajectories)
        predicted, predicted_kept = run.predict(target, kept)
        return {
            "erase": run.error(predicted, desired, target.sigma),
            "retain": self.retain_weight * run.error(predicted_kept, kept.conditional, kept.sigma),
        }
