"""The one ridge solve behind every closed-form edit of the layers that read the text.

min over W' of  sum_i e_i ||W' c_i - W a_i||^2 + sum_j p_j ||W' r_j - W r_j||^2 + ridge ||W' - W||^2
(UCE, arXiv 2308.14761, equation 7): text states c are to be read as a, states r as before. With
M = ridge I + sum_i e_i c_i c_i^T + sum_j p_j r_j r_j^T the solution is W' = W (I + D), D = (A - C) E C^T M^-1,
which is low rank, and of all its factors only W differs between layers: one change of the text states serves them all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..concepts import ErasureRequest
from ..denoiser import Denoiser
from ..erased_unet import ErasedUNet, weight_edit
from ..layers import weight_of
from ..method import ErasureMethod, check_prompts, provenance
from ..report import Report

OVERSAMPLING, ITERATIONS = 8, 10


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
        """The states that the edited layers read in place of states (n, width)."""
        return states + (states @ self.down.T) @ self.shift

    def after(self, inner: TextEdit) -> TextEdit:
        """The edit that first does `inner`, then this: of layers that carry this edit already and get `inner` on top,
        W (I + D) (I + D_inner)."""
        return TextEdit(torch.cat([self.down, inner.down]), torch.cat([self.shift, self.read(inner.shift)]))


def normal_matrix(
    states: Tensor, retain: Tensor | None, erase_weight: float | Tensor, retain_weight: float | Tensor, ridge: float
) -> Tensor:
    """M = ridge I + C E C^T + R P R^T (width, width) of rows c (n, width) to edit and rows r (m, width) to keep."""
    normal = states.T @ _weighted(states, erase_weight)
    if retain is not None and len(retain):
        normal += retain.T @ _weighted(retain, retain_weight)
    normal.diagonal().add_(ridge)
    return normal


def _weighted(rows: Tensor, weight: float | Tensor) -> Tensor:
    weight = torch.as_tensor(weight, dtype=rows.dtype, device=rows.device)
    return rows * (weight[:, None] if weight.ndim else weight)


def check_finite(*tensors: Tensor) -> None:
    """Raise FloatingPointError, saying what to do, if any of them holds NaN or infinity."""
    if not all(bool(tensor.isfinite().all()) for tensor in tensors):
        raise FloatingPointError(
            "the text states or the weights that the closed form reads hold NaN or infinity; nothing was returned. Load "
            "CLIP and MODEL as bfloat16 or float32, and leave out a LoRA that breaks them"
        )


def normal_solution(normal: Tensor, right: Tensor) -> Tensor:
    """The x (width, n) with normal x = right, for a symmetric positive definite `normal` (width, width).

    Raises FloatingPointError, saying what to do, if either is not finite or `normal` is singular in its precision.
    """
    check_finite(normal, right)
    factor, failed = torch.linalg.cholesky_ex(normal)
    if int(failed):
        raise FloatingPointError(
            "the closed form has no stable solution; nothing was returned. Raise ridge, in rece also leftover_ridge"
        )
    return torch.cholesky_solve(right, factor)


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

    Weights are one number or one a row. The edit is exact, of rank at most min(n, width). Raises ValueError for a ridge
    that is not positive, and FloatingPointError as `normal_solution` does.
    """
    if not ridge > 0:
        raise ValueError(f"ridge is {ridge}; give a positive number (the field uses 0.1 to 1)")
    check_finite(desired)  # it is no part of the system that is solved
    states, desired = states.double(), desired.double()
    count, width = states.shape
    if ridge == float("inf"):
        return TextEdit(states.new_zeros(0, width), states.new_zeros(0, width))
    retain = None if retain is None else retain.double()
    normal = normal_matrix(states, retain, erase_weight, retain_weight, ridge)
    # D^T = shift^T pulled with pulled = E C^T M^-1 and shift = A - C (UCE, equation 7)
    pulled, shift = _weighted(states, erase_weight), desired - states
    if count > width:  # the same D = shift^T pulled M^-1 with width instead of count rows
        pulled, shift = shift.T @ pulled, torch.eye(width, dtype=torch.float64, device=states.device)
    return TextEdit(normal_solution(normal, pulled.T).T, shift)


def best_of_rank(edit: TextEdit, normal: Tensor, rank: int) -> TextEdit:
    """Of all edits of this rank the nearest to `edit` on rows X with X^T X = normal (width, width): minimises
    tr (D - D*) M (D - D*)^T, which for M of `solve` is its objective up to a constant. By Eckart and Young that is D*
    projected onto the leading eigenvectors of D* M D*^T = shift^T (down M down^T) shift, here found by subspace
    iteration (arXiv 0909.4061, algorithm 4.4), because a full decomposition takes longer than everything else."""
    if edit.rank <= rank:
        return edit
    inner = edit.down @ normal @ edit.down.T

    def gain(columns: Tensor) -> Tensor:
        return edit.shift.T @ (inner @ (edit.shift @ columns))

    # subspace iteration from a fixed start, so that the same edit is found each time
    width = normal.shape[0]
    columns = torch.randn(width, min(width, rank + OVERSAMPLING), generator=torch.Generator().manual_seed(0))
    for _ in range(ITERATIONS):
        columns = torch.linalg.qr(gain(columns.to(inner))).Q
    mixed = torch.linalg.eigh(columns.T @ gain(columns)).eigenvectors[:, -rank:]
    directions = columns @ mixed
    return TextEdit((directions.T @ edit.shift.T) @ edit.down, directions.T)


def compact(edit: TextEdit, tolerance: float = 1e-9) -> TextEdit:
    """The same edit at its numerical rank: singular values under `tolerance` times the largest are left out."""
    q_shift, r_shift = torch.linalg.qr(edit.shift.T)
    q_down, r_down = torch.linalg.qr(edit.down.T)
    u, values, v = torch.linalg.svd(r_shift @ r_down.T, full_matrices=False)
    keep = values > tolerance * values.amax() if len(values) else values > 0
    return TextEdit((q_down @ v.T[:, keep]).T, ((q_shift @ u[:, keep]) * values[keep]).T)


@dataclass(frozen=True, kw_only=True)
class ClosedFormMethod(ErasureMethod):
    """A method that solves for the keys and values of cross-attention. A subclass gives `text_edit`."""

    needs: ClassVar[tuple[str, ...]] = ("text_states",)
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
            deltas |= layer_edit(name, weight_of(layer), edit)
            report.on_progress(step + 1, len(layers), 0.0)
        report.costs["rank"] = edit.rank
        erased = ErasedUNet(weight_edit(deltas), provenance(self, denoiser, request))
        if edit.rank == 0 or erased.is_zero():
            raise ValueError(
                f"the erasure changed nothing: the text states of {', '.join(request.targets)} are those of what they are "
                f"to become. Name another anchor, or lower ridge"
            )
        return erased


def layer_edit(name: str, weight: Tensor, edit: TextEdit) -> dict[str, Tensor]:
    """The edit of one layer with weight (out, width). W is multiplied in its own precision, but at least float32."""
    weight = weight.detach().to(torch.promote_types(weight.dtype, torch.float32))
    return factors(name, weight @ edit.shift.T.to(weight), edit.down)


def factors(name: str, up: Tensor, down: Tensor) -> dict[str, Tensor]:
    """up (out, rank) times down (rank, width), under the suffixes that ComfyUI's LoRA code reads: as two factors, or as
    a full matrix where that is smaller."""
    if up.numel() + down.numel() >= up.shape[0] * down.shape[1]:
        return {f"{name}.diff": (up @ down.to(up)).float()}
    return {
        f"{name}.lora_up.weight": up.float(),
        f"{name}.lora_down.weight": down.float(),
        f"{name}.alpha": torch.tensor(float(len(down))),
    }
