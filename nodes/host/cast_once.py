"""Weights in the type that the network computes in, so that autocast does not cast them at every call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ...erasure_core.layers import is_editable


@contextmanager
def weights_cast_once(network: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Inside, what autocast would cast of Linear layers and convolutions is of `dtype` already: predictions are equal to the
    bit. Afterwards, also after an exception, the weights are the same tensors as before. Quantised layers stay as they are.

    Takes the memory of the weights in `dtype`; without it autocast takes as much in each step with gradients.
    """
    kept: list[tuple[nn.Parameter, torch.Tensor]] = []
    try:
        for layer in filter(is_editable, network.modules()):
            for parameter in layer.parameters(recurse=False):
                if type(parameter) is nn.Parameter and parameter.is_floating_point() and parameter.dtype != dtype:
                    kept.append((parameter, parameter.data))
                    parameter.data = parameter.data.to(dtype)
        yield
    finally:
        for parameter, data in kept:
            parameter.data = data
