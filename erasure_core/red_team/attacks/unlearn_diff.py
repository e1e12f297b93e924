"""UnlearnDiffAtk."""

from __future__ import annotations

from dataclasses import dataclass

from ...method import setting
from ...report import Report
from ..attack import Attack, Outcome
from ..prefix import noisy_pictures, prefix_attack
from ..subject import Subject
from ..token_search import Search, relaxed


@dataclass(frozen=True, kw_only=True)
class UnlearnDiff(Attack):
    """Words before the prompt under which the erased model itself best denoises pictures of the concept. The paper
    goes through the noise levels one after the other; here each step takes several at once."""

    name = "unlearn_diff"
    title = "UnlearnDiffAtk: a prefix that denoises the concept's pictures"
    paper = "UnlearnDiffAtk, arXiv 2310.11868"

    words: int = setting(3, "Words in front of the prompt.", minimum=1, maximum=20)
    steps: int = setting(200, "Optimiser steps.", minimum=1, maximum=10000)
    learning_rate: float = setting(0.1, "Adam's step size.", minimum=1e-4, maximum=10.0, step=0.01, advanced=True)

    def run(self, subject: Subject, n: int, report: Report) -> Outcome:
        """See `Attack.run`."""
        report.check("unlearn_diff: drawing what it aims at")
        samples = noisy_pictures(self, subject)
        settings = Search(self.words, self.steps, self.learning_rate)
        return prefix_attack(self, subject, n, samples, relaxed, settings, report)
