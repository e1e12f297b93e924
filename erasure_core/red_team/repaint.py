"""Probes that start the erased model from a picture of the concept; the control starts from another picture."""

from __future__ import annotations

from torch import Tensor

from ..report import Report
from .attack import Attack, Outcome, Shot, judged
from .attacked_model import BASE, AttackedModel, plain_prompts


def repaint_probe(
    attack: Attack,
    attacked: AttackedModel,
    n: int,
    strength: float,
    mask: Tensor | None,
    report: Report,
    control_is: str,
) -> Outcome:
    """The base model's pictures of the concept, drawn on by the erased model with the concept's prompt; the control
    starts from the base model's pictures of the empty prompt."""

    def probe(part: int, shown: list[str]) -> Shot:
        report.check(f"{attack.name}: drawing what is shown")
        seeds = attack.seeds(n, part)
        latents = attacked.draw(BASE, shown, seeds).latents
        report.check(f"{attack.name}: the erased model draws on")
        texts = plain_prompts(attacked, n)
        return judged(attacked, attacked.repaint(texts, attack.seeds(n, part + 10), latents, strength, mask).pictures)

    return Outcome(probe(1, plain_prompts(attacked, n)), probe(2, [""] * n), control_is)
