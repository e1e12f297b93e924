"""Erased Stable Diffusion (ESD), arXiv 2303.07345: distil negative guidance into the weights.

||eps_edit(z, c) - (eps(z, anchor) - eta (eps(z, c) - eps(z, "")))||^2, equation 7, on the frozen model's own latents.
With retain lines, their predictions are held where they were; the paper has no such term.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..training.settings import eta, retaining
from ..training.trained import TrainedMethod, Training


@dataclass(frozen=True, kw_only=True)
class ErasedStableDiffusion(TrainedMethod):
    """Negative guidance alone: the baseline that the adversary of `ap` is measured against."""

    name = "esd"
    title = "ESD: negative guidance"
    paper = "arXiv 2303.07345"

    negative_guidance: float = eta(2.0, "How far past the anchor the target is pushed (eta in the paper).")
    retain_weight: float = retaining()

    def losses(self, run: Training, state: None) -> dict[str, Tensor]:
        """`erase`, and `retain` if the user named something to retain."""
        target, desired = run.targets(self.batch, self.negative_guidance)
        if not run.request.retain:
            (predicted,) = run.predict(target)
            return {"erase": run.error(predicted, desired, target.sigma)}
        retained = run.retained([run.pick(run.request.retain) for _ in range(self.batch)], self.trajectories)
        erase, retain = run.erase_and_retain(target, desired, retained)
        return {"erase": erase, "retain": self.retain_weight * retain}
