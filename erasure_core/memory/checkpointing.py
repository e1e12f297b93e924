"""Gradient checkpointing by block: the same gradients in less memory, for one more forward pass.

A block keeps what it is given, and is computed again when the backward pass comes to it, so that the activations of one
block are held at a time (arXiv 1604.06174).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor, nn

CHECKPOINTING = ("auto", "on", "off")
"""The user's choices: when memory is short, always, never."""
Forward = Callable[..., Any]


@contextmanager
def wrapped(blocks: Iterable[nn.Module], wrapper: Callable[[Forward], Forward]) -> Iterator[None]:
    """Inside, each block's `forward` is what `wrapper` makes of it; hooks on the block stay around that."""
    with ExitStack() as stack:
        for block in blocks:
            replaced = vars(block).get("forward")
            stack.callback(_put_back, block, replaced)
            block.forward = wrapper(block.forward)
        yield


def _put_back(block: nn.Module, replaced: Forward | None) -> None:
    if replaced is None:
        vars(block).pop("forward", None)
    else:
        block.forward = replaced


def computed_again(forward: Forward) -> Forward:
    """`forward`, which keeps its inputs instead of its activations where gradients are wanted, and is called a second time
    in the backward pass. Hooks on modules within the block must act then as they do now.

    Two things that networks do would change the second call. They note in a dictionary among the arguments where they are
    as they go: the second call gets that as it was. And some blocks write to the tensors they are given: both calls get
    copies.
    """

    def call(*given: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*given, **named)
        values = [*given, *named.values()]
        tensors = {place: value for place, value in enumerate(values) if torch.is_tensor(value)}
        noted = {place: dict(value) for place, value in enumerate(values) if isinstance(value, dict)}
        rest = [None if place in tensors else value for place, value in enumerate(values)]
        first = True

        def run(*inputs: Tensor) -> Any:
            nonlocal first
            arguments = list(rest)
            for place, value in zip(tensors, inputs, strict=True):
                arguments[place] = value.clone()
            if not first:
                for place, value in noted.items():
                    arguments[place] = dict(value)
            first = False
            return forward(*arguments[: len(given)], **dict(zip(named, arguments[len(given) :], strict=True)))

        inputs = list(tensors.values())
        tensors = dict.fromkeys(tensors)  # only the graph holds the inputs from here on
        # looked up here, for `inference.changed` has a word in it
        return torch.utils.checkpoint.checkpoint(run, *inputs, use_reentrant=False, preserve_rng_state=False)

    return call


@contextmanager
def by_block(blocks: Iterable[nn.Module]) -> Iterator[None]:
    """Inside, forward passes with gradient hold the activations of none of the blocks; a backward pass may come later.
    Blocks must not contain one another."""
    with wrapped(blocks, computed_again):
        yield
