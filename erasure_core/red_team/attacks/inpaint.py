"""Inpainting."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...method import setting
from ...report import Report
from ..attack import Attack, Outcome
from ..attacked_model import ERASED, AttackedModel
from ..repaint import repaint_probe


def central_square(height: int, width: int, share: float) -> Tensor:
    """A mask (height, width) that is 1 in the middle, over this share of each side."""
    mask = torch.zeros(height, width)
    rows, columns = (max(1, round(share * side)) for side in (height, width))
    top, left = (height - rows) // 2, (width - columns) // 2
    mask[top : top + rows, left : left + columns] = 1
    return mask


@dataclass(frozen=True, kw_only=True)
class Inpaint(Attack):
    """The middle of the base model's picture of the concept is cut out, and the erased model fills it in."""

    name = "inpaint"
    title = "Inpainting: fill the hole in a picture of the concept"
    paper = "the inpainting probe of WhenAreConceptsErased (NeurIPS 2025)"

    share: float = setting(
        0.5,
        "Side of the hole, as a share of the picture's. The rest stays.",
        minimum=0.1,
        maximum=1.0,
        step=0.05,
    )

    def run(self, attacked: AttackedModel, n: int, report: Report) -> Outcome:
        """See `Attack.run`."""
        height, width = attacked.draw(ERASED, [""], self.seeds(1, 0)).latents.shape[-2:]
        mask = central_square(height, width, self.share)
        control_is = "the hole in a picture of the empty prompt"
        return repaint_probe(self, attacked, n, 1.0, mask, report, control_is)
