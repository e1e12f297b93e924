"""Unified Concept Editing (UCE), arXiv 2308.14761: one ridge solve maps the target's keys and values to the anchor's.

min over W' of sum_i ||W' c_i - W a_i||^2 + sum_j ||W' r_j - W r_j||^2 + ridge ||W' - W||^2 (equation 7), for the keys and
values of all cross-attentions at once (`closed_form`). No picture is drawn and no gradient is taken.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..closed_form.ridge import TextEdit
from ..closed_form.text_method import TextRowsMethod
from ..concepts import ErasureRequest
from ..denoiser import Denoiser
from ..report import Report


@dataclass(frozen=True, kw_only=True)
class UnifiedConceptEditing(TextRowsMethod):
    """The target's text is read as the anchor's, other words as before; solved in one go."""

    name = "uce"
    title = "UCE: closed form, in seconds"
    paper = "arXiv 2308.14761"

    def text_edit(self, denoiser: Denoiser, request: ErasureRequest, report: Report) -> TextEdit:
        """Equation 7 on the rows of this request."""
        rows, retained = self.rows(denoiser, request, report)
        edit = self.exact(rows.states, rows.desired, retained)
        return self.limited(edit, rows.states, retained, len(request.pairs))
