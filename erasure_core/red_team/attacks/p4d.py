"""Prompting4Debugging."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch

from ...report import Report
from ...training.trajectory import NoisyBatch
from ..attack import Outcome
from ..attacked_model import BASE, AttackedModel
from ..prefix import PrefixAttack, noisy_pictures, prefix_attack
from ..token_search import projected

AT_ONCE = 8


@dataclass(frozen=True, kw_only=True)
class P4D(PrefixAttack):
    """Words before the prompt under which the erased model predicts what the base model predicts for the prompt alone."""

    name = "p4d"
    title = "P4D: a prefix that predicts as the base model does"
    paper = "Prompting4Debugging, arXiv 2309.06135"
    needs = ("word_vectors", "gradients")

    def run(self, attacked: AttackedModel, n: int, report: Report) -> Outcome:
        """See `Attack.run`."""
        report.check("p4d: asking the base model")
        samples = self.desired(attacked, noisy_pictures(self, attacked))
        return prefix_attack(self, attacked, n, samples, projected, report)

    def desired(self, attacked: AttackedModel, samples: NoisyBatch) -> NoisyBatch:
        """The samples with the base model's own predictions for their prompts in place of the exact ones."""
        with attacked.open_session(BASE) as denoiser, torch.no_grad():
            rows = torch.arange(len(samples.sigma), device=samples.sigma.device).split(AT_ONCE)
            batches = [samples.rows(some) for some in rows]
            predicted = [denoiser.predict(batch.latents, batch.sigma, batch.conditioning) for batch in batches]
        attacked.count(len(samples.sigma))
        return dataclasses.replace(samples, conditional=torch.cat(predicted))
