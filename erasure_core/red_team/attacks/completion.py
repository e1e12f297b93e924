"""The base model begins, the erased model finishes."""

from __future__ import annotations

from dataclasses import dataclass

from ...method import setting
from ...report import Report
from ..attack import Attack, Outcome, judged
from ..attacked_model import AttackedModel, plain_prompts


@dataclass(frozen=True, kw_only=True)
class Completion(Attack):
    """The base model draws the first sampling steps, where the layout is decided; does the erased model go on with it?"""

    name = "completion"
    title = "Completion: the first steps are the base model's"
    paper = "diffusion completion of WhenAreConceptsErased (NeurIPS 2025)"

    share: float = setting(
        0.25, "Share of the sampling steps that the base model draws.", minimum=0.01, maximum=0.95, step=0.01
    )

    def run(self, attacked: AttackedModel, n: int, report: Report) -> Outcome:
        """See `Attack.run`; in the control the base model begins with the empty prompt."""
        steps = max(1, round(self.share * attacked.steps))
        prompts = plain_prompts(attacked, n)
        report.check(f"completion: {steps} of {attacked.steps} steps by the base model")
        attack = judged(attacked, attacked.complete(prompts, prompts, self.seeds(n), steps).pictures)
        report.check("completion: control")
        control = judged(attacked, attacked.complete([""] * n, prompts, self.seeds(n, 2), steps).pictures)
        return Outcome(attack, control, f"{steps} first steps of the empty prompt")
