"""The one ridge solve behind every closed-form edit of the layers that read the text.

min over W' of  sum_i e_i ||W' c_i - W a_i||^2 + sum_j p_j ||W' r_j - W r_j||^2 + ridge ||W' - W||^2
(UCE, arXiv 2308.14761, equation 7): text states c are to be read as a, states r as before. With
M = ridge I + sum_i e_i c_i c_i^T + sum_j p_j r_j r_j^T the solution is W' = W + W (A - C) E C^T M^-1,
which is low rank, and of all its factors only W differs between layers: one change of the text states serves them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .concepts import ErasureRequest
from .denoiser import Denoiser
from .erased_unet import ErasedUNet, weight_edit
from .method import ErasureMethod, check_prompts, provenance
from .report import Report


@dataclass(frozen=True)
class TextEdit:
    """A linear change of text states, c -> c + shift^T (down c), in float64: down and shift are (rank, width)."""

    down: Tensor
    shift: Tensor

    @property
    def rank(self) -> int:
        """Rank of the edit of every layer."""
        return self.down.shape[0]

    def read(self, states: Tensor) -> Tensor:
        """What the edited layers read in place of states (n, width)."""
        return states + (states @ self.down.T) @ self.shift

    def plus(self, other: TextEdit) -> TextEdit:
        """The sum of two edits of the same layers."""
        return TextEdit(torch.cat([self.down, other.down]), torch.cat([self.shift, other.shift]))


def solve(
    states: Tensor,
    desired: Tensor,
    retain: Tensor | None = None,
    *,
    erase_weight: float | Tensor = 1.0,
    retain_weight: float | Tensor = 1.0,
    ridge: float = 0.5,
) -> TextEdit:
    """The edit after which states (n, width) are read as `desired` (n, width) and `retain` (m, width) as before.

    Weights are one number or one a row. Raises ValueError for a ridge that is not positive.
    """
    if not ridge > 0:
        raise ValueError(f"ridge is {ridge}; give a positive number (the field uses 0.1 to 1)")
    states, desired = states.double(), desired.double()
    width = states.shape[1]

    def weighted(rows: Tensor, weight: float | Tensor) -> Tensor:
        weight = torch.as_tensor(weight, dtype=torch.float64, device=rows.device)
        return rows * (weight[:, None] if weight.ndim else weight)

    if ridge == float("inf"):
        return TextEdit(torch.zeros_like(states), desired - states)
    pulled = weighted(states, erase_weight)
    normal = ridge * torch.eye(width, dtype=torch.float64, device=states.device) + states.T @ pulled
    if retain is not None and len(retain):
        retain = retain.double()
        normal += retain.T @ weighted(retain, retain_weight)
    down = torch.linalg.solve(normal, pulled.T).T
    return TextEdit(down, desired - states)


def compact(edit: TextEdit, tolerance: float = 1e-9) -> TextEdit:
    """The same edit at its numerical rank: singular values under `tolerance` times the largest are left out."""
    q_shift, r_shift = torch.linalg.qr(edit.shift.T)
    q_down, r_down = torch.linalg.qr(edit.down.T)
    u, values, v = torch.linalg.svd(r_shift @ r_down.T)
    keep = values > tolerance * values.max().clamp(min=1e-300)
    return TextEdit((q_down @ v.T[:, keep]).T, ((q_shift @ u[:, keep]) * values[keep]).T)


@dataclass(frozen=True, kw_only=True)
class ClosedFormMethod(ErasureMethod):
    """A method that solves for the keys and values of cross-attention. A subclass gives `text_edit`."""

    group: ClassVar[str] = "cross_attention_kv"

    def text_edit(self, denoiser: Denoiser, request: ErasureRequest, report: Report) -> TextEdit:
        """The change of text states that the edited layers are to make."""
        raise TypeError(f"{type(self).__name__} does not say what it solves: implement text_edit()")

    @torch.no_grad()
    def erase(self, denoiser: Denoiser, request: ErasureRequest, report: Report) -> ErasedUNet:
        """See `ErasureMethod.erase`; the result is weights only, exactly low rank, with one `down` for all layers."""
        check_prompts(denoiser, request)
        layers = denoiser.layers(self.group)
        edit = self.text_edit(denoiser, request, report)
        deltas: dict[str, Tensor] = {}
        for step, (name, layer) in enumerate(layers.items()):
            report.check()
            deltas |= low_rank(name, layer.weight, edit)
            report.on_progress(step + 1, len(layers), 0.0)
        report.costs["rank"] = edit.rank
        erased = ErasedUNet(weight_edit(deltas), provenance(self, denoiser, request))
        if erased.is_zero():
            raise ValueError(
                f"the erasure changed nothing: the text states of {', '.join(request.targets)} are those of what they are "
                f"to become. Name another anchor, or lower ridge"
            )
        return erased


def low_rank(name: str, weight: Tensor, edit: TextEdit) -> dict[str, Tensor]:
    """The edit of one layer with weight (out, width), under the suffixes that ComfyUI's LoRA code reads."""
    up = weight.double() @ edit.shift.to(weight.device).T
    return {
        f"{name}.lora_up.weight": up.float(),
        f"{name}.lora_down.weight": edit.down.float(),
        f"{name}.alpha": torch.tensor(float(edit.rank)),
    }


def prompt_states(denoiser: Denoiser, prompts: Sequence[str]) -> list[Tensor]:
    """The text states (tokens, width) of each prompt."""
    return [denoiser.encode([prompt]).tokens[0] for prompt in prompts]
