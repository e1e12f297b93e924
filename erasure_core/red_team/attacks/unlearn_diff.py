"""UnlearnDiffAtk."""

from __future__ import annotations

from dataclasses import dataclass

from ...report import Report
from ..attack import Outcome
from ..attacked_model import AttackedModel
from ..prefix import PrefixAttack, noisy_pictures, prefix_attack
from ..token_search import relaxed


@dataclass(frozen=True, kw_only=True)
class UnlearnDiff(PrefixAttack):
    """Words before the prompt under which the erased model itself best denoises pictures of the concept. The paper
    goes through the noise levels one after the other; here each step takes several at once."""

    name = "unlearn_diff"
    title = "UnlearnDiffAtk: a prefix that denoises the concept's pictures"
    paper = "UnlearnDiffAtk, arXiv 2310.11868"
    needs = ("word_vectors", "gradients")

    def run(self, attacked: AttackedModel, n: int, report: Report) -> Outcome:
        """See `Attack.run`."""
        report.check("unlearn_diff: drawing what it aims at")
        samples = noisy_pictures(self, attacked)
        return prefix_attack(self, attacked, n, samples, relaxed, report)
