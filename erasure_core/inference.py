"""Edits that act while the model runs: around one call of the network, never in its weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn


@dataclass(frozen=True)
class ModelCall:
    """One call of the network, as a sampler makes it. The batch may mix prompts, positive and negative ones."""

    latents: Tensor
    """(n, channels, ...) in model space"""
    sigma: Tensor
    """Noise levels (n,)"""
    tokens: Tensor
    """Text hidden states (n, tokens, width)"""
    positive: Tensor
    """(n,) bool: False for the rows of the negative prompt"""


Forward = Callable[[Tensor], Tensor]


class InferenceEdit(Protocol):
    """Wraps a call: runs `forward(tokens)`, the network with these text hidden states, as often as it likes (usually
    once, inside `changed`), and returns its result. Everything it attaches to `modules` is gone when it returns, also on
    an exception. `strength` scales the edit; it is never called with 0."""

    def __call__(self, modules: Mapping[str, nn.Module], call: ModelCall, forward: Forward, strength: float) -> Tensor:
        """The network's result under the edit."""
        ...


@contextmanager
def changed(
    outputs: Mapping[nn.Module, Callable[[tuple, Tensor], Tensor]] | None = None,
    inputs: Mapping[nn.Module, Callable[[tuple], tuple]] | None = None,
) -> Iterator[None]:
    """Inside, a module's output is what its function makes of (inputs, output), and its positional inputs are what its
    function makes of them."""
    with ExitStack() as stack:
        for module, change in (outputs or {}).items():
            handle = module.register_forward_hook(lambda _module, given, result, change=change: change(given, result))
            stack.callback(handle.remove)
        for module, change_input in (inputs or {}).items():
            handle = module.register_forward_pre_hook(lambda _module, given, change=change_input: change(given))
            stack.callback(handle.remove)
        yield


@contextmanager
def recorded(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """Inside, the latest output of each module is kept under its name, with its gradient."""
    kept: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[tuple, Tensor], Tensor]:
        def note(_inputs: tuple, output: Tensor) -> Tensor:
            kept[name] = output
            return output

        return note

    with changed({module: keep(name) for name, module in modules.items()}):
        yield kept
