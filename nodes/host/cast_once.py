"""Weights and text in the type that the network computes in, so that autocast does not cast them at every call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ...erasure_core.layers import PLAIN, is_editable


def _cast(network: nn.Module, dtype: torch.dtype) -> Iterator[nn.Parameter]:
    """What autocast would cast to `dtype`. Layers whose weights ComfyUI changes on the way are left alone: the change would
    start from rounded weights."""
    for layer in filter(is_editable, network.modules()):
        if getattr(layer, "weight_function", None) or getattr(layer, "bias_function", None):
            continue
        for parameter in layer.parameters(recurse=False):
            if type(parameter) is nn.Parameter and parameter.dtype in PLAIN and parameter.dtype != dtype:
                yield parameter


def bytes_cast(network: nn.Module, dtype: torch.dtype) -> int:
    """The memory that `weights_cast_once` takes."""
    return sum(parameter.numel() * dtype.itemsize for parameter in _cast(network, dtype))


@contextmanager
def weights_cast_once(network: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Inside, what autocast would cast of Linear layers and convolutions is of `dtype` already: predictions are equal to the
    bit. Afterwards, also after an exception, the weights are the same tensors as before. Quantised layers stay as they are.

    Takes the memory of the weights in `dtype`. A step with gradients, without checkpointing, takes that anyway: autocast's own
    copies are kept for its backward pass.
    """
    kept: list[tuple[nn.Parameter, torch.Tensor]] = []
    try:
        for parameter in _cast(network, dtype):
            kept.append((parameter, parameter.data))
            parameter.data = parameter.data.to(dtype)
        yield
    finally:
        for parameter, data in kept:
            parameter.data = data


@contextmanager
def text_cast_once(network: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Inside, a UNet gets the text states in `dtype`. Its keys and values alone read them, and each of these layers would have
    autocast cast the same states, so predictions are equal to the bit. Only for a UNet (`Family.is_unet`)."""

    def cast(_: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        return args, kwargs | {"context": kwargs["context"].to(dtype)}

    hook = network.register_forward_pre_hook(cast, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()
