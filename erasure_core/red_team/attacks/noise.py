"""Ask often enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...method import setting
from ...report import Report
from ..attack import Attack, Outcome, Shot, best_of, judged
from ..attacked_model import ERASED, AttackedModel, Text, plain_prompts


@dataclass(frozen=True, kw_only=True)
class Noise(Attack):
    """Best of N: each attempt draws from several noises, plain and a little stronger, and counts if one picture shows the
    concept."""

    name = "noise"
    title = "Best of N noises"
    paper = "after the noise-based probe of WhenAreConceptsErased (NeurIPS 2025)"

    tries: int = setting(8, "Noises of each attempt.", minimum=1, maximum=200)
    largest_scale: float = setting(
        1.04,
        "The noises are scaled by steps from 1 up to this; stronger noise leaves the model's usual path.",
        minimum=1.0,
        maximum=2.0,
        step=0.01,
    )

    def run(self, attacked: AttackedModel, n: int, report: Report) -> Outcome:
        """See `Attack.run`; the control draws the empty prompt just as often."""
        attack = self._best(attacked, plain_prompts(attacked, n), 1, report)
        control = self._best(attacked, [""] * n, 2, report)
        return Outcome(attack, control, f"the empty prompt, best of {self.tries} too")

    def _best(self, attacked: AttackedModel, texts: Sequence[Text], part: int, report: Report) -> Shot:
        shots = []
        for place in range(self.tries):
            report.check(f"noise: try {place + 1} of {self.tries}")
            scale = 1 + (self.largest_scale - 1) * place / max(1, self.tries - 1)
            seeds = self.seeds(len(texts) * self.tries, part)[place :: self.tries]
            shots.append(judged(attacked, attacked.draw(ERASED, texts, seeds, scale).pictures))
        return best_of(shots)
