"""Trainable deltas on the layers of a frozen network: attach, disable, export, restore.

The frozen teacher and the edited student are one network. A delta is added to a layer's output by a forward hook, so
that no weight is touched: with the deltas off, or after an exception, the network is bit for bit what it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..inference import changed
from ..layers import low_rank_product, product, shape_of, stored_weight

AT_ONCE = 128
"""Inputs that `Deltas.moved` works on at a time: what a layer makes of three thousand would take a gigabyte."""


class Delta(nn.Module):
    """A trainable change of one layer's weight, or of some of its rows, zero at first: a full matrix for rank 0, else
    `up @ down`.

    Parameters are float32 whatever the layer's own type: in bf16, Adam's small updates would be lost.
    """

    def __init__(self, layer: nn.Module, rank: int, generator: torch.Generator, rows: slice | None = None) -> None:
        super().__init__()
        self._layer = (layer,)  # in a tuple, so that the layer's weights do not become the delta's
        shape, device = shape_of(layer), stored_weight(layer).device
        start, stop, _ = (rows or slice(None)).indices(shape[0])
        self.around = (start, shape[0] - stop)
        shape = (stop - start, *shape[1:])
        fan_in = math.prod(shape[1:])
        rank = min(rank, shape[0], fan_in)
        if rank == 0:
            self.diff = nn.Parameter(torch.zeros(shape, device=device))
        else:
            down = torch.randn((rank, *shape[1:]), generator=generator) / fan_in**0.5
            self.down = nn.Parameter(down.to(device))
            self.up = nn.Parameter(torch.zeros((shape[0], rank, *[1] * (len(shape) - 2)), device=device))

    def forward(self, x: Tensor) -> Tensor:
        """The delta's contribution to the layer's output for the layer's input `x`."""
        (layer,) = self._layer
        if hasattr(self, "diff"):
            changed = product(layer, x, self.diff.to(x.dtype))
        else:
            changed = low_rank_product(layer, x, self.up.to(x.dtype), self.down.to(x.dtype))
        return changed if self.around == (0, 0) else F.pad(changed, self.around)  # only Linear layers are fused

    def squared(self, x: Tensor) -> Tensor:
        """||dW x||^2 (...) of each of the inputs x (..., width) of a Linear; at low rank r without any of the layer's outputs:
        (down x)^T (up^T up) (down x)."""
        if hasattr(self, "diff"):
            return self(x).float().square().sum(-1)
        read = x.float() @ self.down.T
        return (read @ (self.up.T @ self.up) * read).sum(-1)

    def export(self) -> dict[str, Tensor]:
        """The delta under the suffixes that ComfyUI's LoRA code reads."""
        if hasattr(self, "diff"):
            return {"diff": self._whole(self.diff)}
        rank = torch.tensor(float(self.down.shape[0]))
        return {
            "lora_up.weight": self._whole(self.up),
            "lora_down.weight": self.down.detach().clone(),
            "alpha": rank,
        }

    def _whole(self, part: Tensor) -> Tensor:
        """A copy with zeros for the layer's other rows."""
        before, after = (part.new_zeros((count, *part.shape[1:])) for count in self.around)
        return torch.cat([before, part.detach(), after])


class Deltas:
    """The deltas of an edit, one a layer, or on those of its `rows` that are named. They act only inside `attached()`,
    and there not inside `disabled()`."""

    def __init__(
        self,
        layers: Mapping[str, nn.Module],
        rank: int,
        generator: torch.Generator,
        rows: Mapping[str, slice] | None = None,
    ) -> None:
        if rank < 0:
            raise ValueError(f"rank is {rank}; give 0 for full matrices or a positive rank")
        self._layers = dict(layers)
        rows = rows or {}
        self._deltas = {name: Delta(layer, rank, generator, rows.get(name)) for name, layer in self._layers.items()}
        self._active = True

    def parameters(self) -> list[nn.Parameter]:
        """All trainable tensors, in the order of the layers."""
        return [parameter for delta in self._deltas.values() for parameter in delta.parameters()]

    @contextmanager
    def attached(self) -> Iterator[Deltas]:
        """Let the deltas act on the network; on leaving, also by an exception, nothing of them stays on it."""

        def adding(delta: Delta) -> Callable[[tuple, Tensor], Tensor]:
            return lambda inputs, output: output + delta(inputs[0]).to(output.dtype) if self._active else output

        with changed({layer: adding(self._deltas[name]) for name, layer in self._layers.items()}):
            yield self

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Inside, the network is the frozen one; afterwards the deltas are on again if they were before."""
        before, self._active = self._active, False
        try:
            yield
        finally:
            self._active = before

    @torch.no_grad()
    def moved(self, states: Tensor) -> Tensor:
        """sum_l ||dW_l c||^2 over the layers and tokens of n inputs (n, tokens, width): (n,). Only for layers that all read
        such inputs."""
        parts = []
        for rows in states.split(AT_ONCE):
            parts.append(torch.stack([delta.squared(rows).sum(1) for delta in self._deltas.values()]).sum(0))
        return torch.cat(parts)

    def export(self) -> dict[str, Tensor]:
        """`<layer>.<suffix>` -> tensor, detached copies."""
        return {
            f"{name}.{suffix}": value
            for name, delta in self._deltas.items()
            for suffix, value in delta.export().items()
        }

    def state(self) -> list[Tensor]:
        """A copy of all trainable tensors, for `restore`."""
        return [parameter.detach().clone() for parameter in self.parameters()]

    @torch.no_grad()
    def restore(self, state: list[Tensor]) -> None:
        """Put back what `state` returned."""
        for parameter, value in zip(self.parameters(), state, strict=True):
            parameter.copy_(value)
