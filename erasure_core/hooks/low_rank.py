"""Low-rank changes of layers as an inference-time edit keeps them: read from a file, cast once, applied row by row."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from ..guidance import per_sample
from ..layers import low_rank_product

Change = Callable[[tuple, Tensor], Tensor]


class CastCache:
    """Tensors by name, in whatever type and on whatever device the network computes; each is cast once and kept."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = dict(tensors)
        self._cast: dict[tuple, Tensor] = {}

    def names(self) -> list[str]:
        """Names of all tensors."""
        return list(self._tensors)

    def like(self, name: str, x: Tensor) -> Tensor:
        """The tensor in the type and on the device of `x`, fit to be saved by autograd: somebody may train through it."""
        key = (name, x.dtype, x.device)
        if key not in self._cast:
            with torch.inference_mode(False), torch.no_grad():
                self._cast[key] = self._tensors[name].to(x.device, x.dtype).clone()
        return self._cast[key]


def low_rank_changes(
    modules: Mapping[str, nn.Module], tensors: CastCache, scale: Tensor | None = None
) -> dict[nn.Module, Change]:
    """For `inference.changed`: layer -> the function that adds `<layer>.up` @ `<layer>.down` to its output, times scale
    (n,), one number for each row of the batch.

    The scale is applied once, to the product; scaling both factors would square it. Raises ValueError, naming the
    layer, if the network has none of that name.
    """

    def change_of(name: str, layer: nn.Module) -> Change:
        def change(inputs: tuple, output: Tensor) -> Tensor:
            x = inputs[0]
            added = low_rank_product(layer, x, tensors.like(f"{name}.up", x), tensors.like(f"{name}.down", x))
            if scale is not None:
                added = added * per_sample(scale.to(added.dtype), added)
            return output + added.to(output.dtype)

        return change

    names = [name.removesuffix(".up") for name in tensors.names() if name.endswith(".up")]
    missing = [name for name in names if name not in modules]
    if missing:
        raise ValueError(
            f"this MODEL has no layer {missing[0]!r} that the erased UNet edits; load the kind of model it was made for"
        )
    return {modules[name]: change_of(name, modules[name]) for name in names}


def by_concept(parts: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Parts named `<concept number>.<name>` -> the parts of each concept, in order."""
    count = 1 + max(int(name.split(".", 1)[0]) for name in parts)
    concepts: list[dict[str, Tensor]] = [{} for _ in range(count)]
    for name, value in parts.items():
        number, rest = name.split(".", 1)
        concepts[int(number)][rest] = value
    return concepts


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under `<prefix><name>`, on the CPU and contiguous as a file wants them."""
    return {f"{prefix}{name}": value.detach().cpu().contiguous().clone() for name, value in tensors.items()}


def low_rank_tensors(exported: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`deltas.Deltas.export` of low-rank deltas -> `<layer>.up` and `<layer>.down`; alpha is their rank, a factor 1."""
    tensors = {}
    for key, value in exported.items():
        for old, new in ((".lora_up.weight", ".up"), (".lora_down.weight", ".down")):
            if key.endswith(old):
                tensors[key.removesuffix(old) + new] = value
    return tensors
