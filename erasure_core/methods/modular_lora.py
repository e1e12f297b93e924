"""Modular LoRA, "Safety Alignment Backfires", arXiv 2412.00357: keep the erasure beside what a user trains, not under it.

    dW_safe = argmin L_safe(W0 + dW)                        this method: low rank, learnt on the base weights W0
    dW_task = argmin L_denoise(W0 + dW)                     the user's own LoRA, learnt with the safety LoRA detached
    W       = W0 + a_safe dW_safe + a_task dW_task          only while pictures are drawn

A task LoRA that is learnt at W0 + dW_safe instead can learn the concept back. L_safe is one of two losses:
`esd`, ||eps_edit(z, c) - (eps(z, anchor) - eta (eps(z, c) - eps(z, "")))||^2 (arXiv 2303.07345, equation 7), or
`sdd`, ||eps_edit(z, c) - stopgrad eps_edit(z, anchor)||^2 (arXiv 2307.05977), whose own side nothing holds in place.
Both therefore get a second term, which the paper does not state: the anchor's sentence must look as it did before.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from torch import Tensor

from ..guidance import negative_guidance
from ..method import setting
from ..training.settings import eta, retaining
from ..training.trained import TrainedMethod, Training
from ..training.trajectory import NoisyBatch


@dataclass(frozen=True, kw_only=True)
class ModularLora(TrainedMethod):
    """A small safety LoRA to be put beside any task LoRA of the same base."""

    name = "modular_lora"
    title = "Modular LoRA: a safety LoRA beside task LoRAs"
    paper = "arXiv 2412.00357"

    objective: str = setting(
        "esd",
        "The objective of the safety LoRA: esd pushes the target past the anchor, as the frozen model sees both; sdd maps it "
        "onto the edited model's own prediction for the anchor, and pushes no further.",
        choices=("esd", "sdd"),
    )
    negative_guidance: float = eta(1.0, "How far past the anchor esd pushes the target (eta). sdd does not use it.")
    retain_weight: float = retaining(
        1.0, "Weight of keeping the sentences without the target, and the retain lines, as they were."
    )

    def losses(self, run: Training, state: None) -> dict[str, Tensor]:
        """`erase` for one target; `retain` for the same sentences about the anchor, and a retain line if there are any."""
        target, anchored, desired = self._target(run)
        retained = anchored
        if run.request.retain:
            retained = NoisyBatch.cat([anchored, run.retained([run.pick(run.request.retain)], self.trajectories)])
        predicted, predicted_retained = run.predict(target, retained)
        if self.objective == "sdd":
            desired = predicted_retained[: len(predicted)].detach()
        return {
            "erase": run.error(predicted, desired, target.sigma),
            "retain": self.retain_weight * run.error(predicted_retained, retained.conditional, retained.sigma),
        }

    def _target(self, run: Training) -> tuple[NoisyBatch, NoisyBatch, Tensor]:
        """Samples of a target, the same latents with the anchor's sentence, and the desired predictions of `esd`."""
        pair = run.in_turn(run.request.pairs)
        target, rows = run.pool.draw(pair.target, self.batch)
        sentences = [template.with_concept(pair.anchor) for template in run.pool.templates_of(pair.target, rows)]
        anchor = run.pool.anchor_predictions(pair.target, pair.anchor, rows)
        neutral = run.pool.anchor_predictions(pair.target, pair.neutral, rows)
        anchored = dataclasses.replace(target, conditioning=run.denoiser.encode(sentences), conditional=anchor)
        return target, anchored, negative_guidance(anchor, target.conditional, neutral, self.negative_guidance)
