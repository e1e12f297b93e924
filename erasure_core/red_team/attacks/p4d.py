"""Prompting4Debugging."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch

from ...method import setting
from ...report import Report
from ...trajectory import NoisyBatch
from ..attack import Attack, Outcome
from ..prefix import noisy_pictures, prefix_attack
from ..subject import BASE, Subject
from ..token_search import Search, projected

AT_ONCE = 8


@dataclass(frozen=True, kw_only=True)
class P4D(Attack):
    """Words before the prompt under which the erased model predicts what the base model predicts for the prompt alone."""

    name = "p4d"
    title = "P4D: a prefix that predicts as the base model does"
    paper = "Prompting4Debugging, arXiv 2309.06135"

    words: int = setting(3, "Words in front of the prompt.", minimum=1, maximum=20)
    steps: int = setting(200, "Optimiser steps.", minimum=1, maximum=10000)
    learning_rate: float = setting(0.1, "Adam's step size.", minimum=1e-4, maximum=10.0, step=0.01, advanced=True)

    def run(self, subject: Subject, n: int, report: Report) -> Outcome:
        """See `Attack.run`."""
        report.check("p4d: asking the base model")
        samples = self.desired(subject, noisy_pictures(self, subject))
        settings = Search(self.words, self.steps, self.learning_rate)
        return prefix_attack(self, subject, n, samples, projected, settings, report)

    def desired(self, subject: Subject, samples: NoisyBatch) -> NoisyBatch:
        """The samples with the base model's own predictions for their prompts in place of the exact ones."""
        with subject.opened(BASE) as denoiser, torch.no_grad():
            rows = torch.arange(len(samples.sigma), device=samples.sigma.device).split(AT_ONCE)
            parts = [samples.rows(some) for some in rows]
            predicted = [denoiser.predict(part.latents, part.sigma, part.conditioning) for part in parts]
        subject.calls += len(samples.sigma)
        return dataclasses.replace(samples, conditional=torch.cat(predicted))
