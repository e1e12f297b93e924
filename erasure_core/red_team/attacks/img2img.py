"""Image to image."""

from __future__ import annotations

from dataclasses import dataclass

from ...method import setting
from ...report import Report
from ..attack import Attack, Outcome
from ..attacked_model import AttackedModel
from ..repaint import repaint_probe


@dataclass(frozen=True, kw_only=True)
class ImageToImage(Attack):
    """The erased model redraws the base model's picture of the concept."""

    name = "img2img"
    title = "Image to image: redraw a picture of the concept"
    paper = "the image-prompt probe of RECALL in its simplest form"

    strength: float = setting(
        0.7, "How much is redrawn: 1 forgets the picture, 0 keeps it.", minimum=0.05, maximum=1.0, step=0.05
    )

    def run(self, attacked: AttackedModel, n: int, report: Report) -> Outcome:
        """See `Attack.run`."""
        control_is = "a picture of the empty prompt, redrawn alike"
        return repaint_probe(self, attacked, n, self.strength, None, report, control_is)
