"""Which layers a layer group means, read from the table of families."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TypeGuard, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .families import FAMILIES, family_named

CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)
_Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
PLAIN = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
"""The types of weights that are not quantised."""
GROUPS = {
    "cross_attention_kv": "keys and values of cross-attention (ESD's esd-x-strict): only how the text is read",
    "cross_attention": "all of cross-attention (esd-x, xattn)",
    "self_attention": "self-attention (selfattn)",
    "non_cross_attention": "everything but cross-attention and time embedding (esd-u, noxattn): for nudity and styles",
    "all": "every layer but the time embedding and the output (notime)",
    "cross_attention_kv_pooled": "cross_attention_kv and what reads the pooled text, where the model has such (SDXL, SD3, "
    "Flux.1)",
}
"""In models with one attention for text and picture, cross-attention stands for the layers that read the text alone."""


def select(family: str, group: str, names: list[str]) -> list[str]:
    """The names, out of a model's Linear and convolution layers, that belong to `group` in `family`.

    Raises ValueError, naming what there is, for an unknown family or group and for a group without any layer.
    """
    groups = family_named(family).groups
    if group not in GROUPS:
        raise ValueError(f"unknown layer group {group!r}; choose one of {', '.join(GROUPS)}")
    pattern = groups.get(group)
    chosen = [name for name in names if pattern and re.fullmatch(pattern, name)]
    if not chosen:
        there = [group for group, pattern in groups.items() if any(re.fullmatch(pattern, name) for name in names)]
        raise ValueError(
            f"this {family} model has no layer of the group {group!r}; choose another layer group in the method's settings"
            + (f", of {', '.join(there)}" if there else "")
        )
    return chosen


def rows(family: str, group: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, slice]:
    """Which rows of a layer belong to the group, for layers with weights of these shapes (out, in) in which not all do.

    A fused layer holds as many rows of queries as it has columns, and then keys and values.
    """
    fused = family_named(family).fused
    if not fused or not group.startswith("cross_attention_kv"):
        return {}
    return {name: slice(shape[1], shape[0]) for name, shape in shapes.items() if re.fullmatch(fused, name)}


def blocks(family: str, kind: str, names: Iterable[str]) -> list[str]:
    """The names, out of all modules of a UNet, of its blocks of a kind, in the order in which they are run.

    `transformer`: whole transformer blocks, whose output is the residual stream; `encoder`: the last module of each
    encoder block, whose output is also a skip; `decoder`: the first module of each decoder block, whose input is the
    residual stream and, in its last channels, a skip (the last skip first). In every family, `checkpointed`: those that
    gradient checkpointing computes again, none of which contains another. Raises ValueError for an unknown kind or a
    family without such blocks.
    """
    if kind == "checkpointed":
        return _checkpointed(family, list(names))
    if family not in FAMILIES or not FAMILIES[family].is_unet:
        raise ValueError(f"models of family {family!r} have no UNet blocks; choose a method that edits layers only")
    names = list(names)
    order = {"input_blocks": 0, "middle_block": 1, "output_blocks": 2}
    if kind == "transformer":
        owners = [name.removesuffix(".transformer_blocks") for name in names if name.endswith(".transformer_blocks")]
        return sorted(owners, key=lambda name: order[name.split(".")[0]])
    if kind == "decoder":
        return [name for name in names if re.fullmatch(r"output_blocks\.\d+\.0", name)]
    if kind != "encoder":
        raise ValueError(f"unknown kind of block {kind!r}; choose transformer, encoder or decoder")
    encoder_parts = [name for name in names if re.fullmatch(r"input_blocks\.\d+\.\d+", name)]
    return list({name.rsplit(".", 1)[0]: name for name in encoder_parts}.values())


def _checkpointed(family: str, names: list[str]) -> list[str]:
    owners = {name.rpartition(".")[0] for name in names}  # a single layer keeps nothing but its input anyway
    matching = [name for name in names if name in owners and re.fullmatch(family_named(family).blocks, name)]
    return [name for name in matching if not any(other.startswith(f"{name}.") for other in matching)]


def is_linear(module: nn.Module) -> TypeGuard[nn.Linear]:
    """True for Linear, also for one of a quantised model, which need not be torch's own class."""
    return isinstance(module, nn.Linear) or all(
        hasattr(module, name) for name in ("in_features", "out_features", "weight")
    )


def is_editable(module: nn.Module) -> bool:
    """True for the layers a delta can be attached to: Linear and ungrouped convolutions."""
    convolution = isinstance(module, _Convolution) and module.groups == 1
    return convolution or is_linear(module)


def shape_of(layer: nn.Module) -> tuple[int, ...]:
    """The shape (out, in, ...) of the weight that a layer multiplies with; a quantised one may be stored in another."""
    return (layer.out_features, layer.in_features) if is_linear(layer) else tuple(stored_weight(layer).shape)


def stored_weight(layer: nn.Module) -> Tensor:
    """The weight as the layer holds it, quantised or not; torch knows no more of `layer.weight` than Tensor or Module."""
    return cast(Tensor, layer.weight)


def product(layer: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    """The layer's output for the input x with another `weight`, whose number of rows may differ, and without a bias."""
    if not isinstance(layer, _Convolution):
        return F.linear(x, weight)
    geometry = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
    return CONVOLUTIONS[weight.ndim - 3](x, weight, **geometry)


def low_rank_product(layer: nn.Module, x: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """The change of the layer's output for the input x under the weight change `up @ down`, of a Linear (quantised or not)
    or a convolution."""
    hidden = product(layer, x, down)
    return CONVOLUTIONS[up.ndim - 3](hidden, up) if isinstance(layer, _Convolution) else F.linear(hidden, up)


@torch.no_grad()
def weight_of(layer: nn.Module) -> Tensor:
    """The weight (out, in, ...) that a layer multiplies with, at least in float32.

    Of a quantised Linear it is computed by feeding the identity through the layer, so it works for any format. Raises
    TypeError for another quantised layer."""
    weight = stored_weight(layer).detach()
    if type(weight) in (Tensor, nn.Parameter) and weight.dtype in PLAIN:
        return weight.to(torch.promote_types(weight.dtype, torch.float32))
    if not is_linear(layer):
        raise TypeError(f"a {type(layer).__name__} of type {weight.dtype} cannot be read; load the MODEL unquantised")
    inputs = torch.eye(layer.in_features, device=weight.device)
    return (layer(inputs) - layer(torch.zeros_like(inputs[:1]))).T.float().contiguous()
