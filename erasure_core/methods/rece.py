"""Reliable and Efficient Concept Erasure (RECE), arXiv 2407.12383: erase what the closed form left over, in closed form.

After an edit W -> W' some other text state c' still gives the keys and values that the target c gave:
c' = argmin_x sum_l ||W'_l x - W_l c||^2 + rho ||x||^2 = (sum_l W'^T W' + rho I)^-1 (sum_l W'^T W) c, over all edited layers.
Each epoch derives these states and maps them to the anchor too, as UCE (arXiv 2308.14761, equation 7) did with c.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..closed_form.ridge import TextEdit, normal_solution
from ..closed_form.text_method import TextRowsMethod
from ..concepts import ErasureRequest
from ..denoiser import Denoiser
from ..layers import weight_of
from ..method import setting
from ..report import Report

BLOCK = 512


@dataclass(frozen=True, kw_only=True)
class ReliableConceptErasure(TextRowsMethod):
    """UCE, then in turn: find the text that still says the target, and erase that as well."""

    name = "rece"
    title = "RECE: closed form against what is left over"
    paper = "arXiv 2407.12383"

    epochs: int = setting(
        1, "How often the leftover text states are derived and erased. 0 is UCE.", minimum=0, maximum=20
    )
    leftover_ridge: float = setting(
        0.1,
        "How small the leftover text states stay (rho). Smaller values find stronger ones, and cost other concepts more.",
        minimum=1e-6,
        maximum=1e6,
        step=0.01,
    )

    def text_edit(self, denoiser: Denoiser, request: ErasureRequest, report: Report) -> TextEdit:
        """The sum of all epochs, at the rank that the settings allow."""
        rows, retained = self.rows(denoiser, request, report)
        gram = layers_gram(weight_of(layer) for layer in denoiser.layers(self.group).values())
        edit = self.exact(rows.states, rows.desired, retained)
        erased = rows.states
        for _ in range(self.epochs):
            report.check()
            still_says_it = leftover(edit, gram, rows.states, self.leftover_ridge)
            report.log({"leftover": float(still_says_it.norm() / rows.states.norm())})
            # what earlier epochs mapped to the anchor stays there: the paper's update lets it drift past
            edit = edit.after(self.exact(still_says_it, rows.desired, torch.cat([retained, erased])))
            erased = torch.cat([erased, still_says_it])
        return self.limited(edit, erased, retained, len(request.pairs))


def layers_gram(weights: Iterable[Tensor]) -> Tensor:
    """sum_l W_l^T W_l (width, width), float64, of weights (out, width): all that the leftover states need to know of the
    layers, because every W'_l is W_l times one and the same matrix."""
    total = torch.zeros(0, 0, dtype=torch.float64)
    for weight in weights:
        weight = weight.detach().to(torch.promote_types(weight.dtype, torch.float32))
        if not len(total):
            total = torch.zeros(weight.shape[1], weight.shape[1], dtype=torch.float64)
        for start in range(0, len(total), BLOCK):  # the half above the diagonal is enough
            total[start : start + BLOCK, start:] += (weight[:, start : start + BLOCK].T @ weight[:, start:]).cpu()
    return total.triu() + total.triu(1).T


def leftover(edit: TextEdit, gram: Tensor, states: Tensor, ridge: float) -> Tensor:
    """The rows (n, width) that layers with `edit` turn into what the layers without it made of `states` (n, width), as
    nearly as `ridge` lets them. With W' = W T and G = sum W^T W: c' = (T^T G T + ridge I)^-1 T^T G c."""
    transform = edit.shift.T @ edit.down
    transform.diagonal().add_(1.0)
    pulled = transform.T @ gram
    normal = pulled @ transform
    normal.diagonal().add_(ridge)
    return normal_solution(normal, pulled @ states.T).T
