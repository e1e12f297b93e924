"""Edits that act while the model runs: around one call of the network, never in its weights."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.utils.checkpoint
from torch import Tensor, nn


@dataclass(frozen=True)
class ModelCall:
    """One call of the network, as a sampler makes it. The batch may mix prompts, positive and negative ones."""

    latents: Tensor
    """(n, channels, ...) in model space"""
    sigma: Tensor
    """Noise levels (n,)"""
    tokens: Tensor | None
    """Text hidden states (n, tokens, width), or None for a call without a prompt"""
    positive: Tensor
    """(n,) bool: False for the rows of the negative prompt, True for all others and where nobody can tell"""


Forward = Callable[[Tensor | None], Tensor]


class InferenceEdit(Protocol):
    """Wraps a call: runs `forward(tokens)`, the network with these text hidden states, as often as it likes (usually
    once, inside `changed`), and returns its result. Everything it attaches to `modules` is gone when it returns, also on
    an exception. `strength` scales the edit; it is never called with 0."""

    def __call__(self, modules: Mapping[str, nn.Module], call: ModelCall, forward: Forward, strength: float) -> Tensor:
        """The network's result under the edit."""
        ...


class _Uncompiled:
    """See `uncompiled`. torch has one stance for all threads, so that the last one out restores it."""

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        # whoever compiles has imported it, and importing it for nothing takes seconds
        if "torch._dynamo" not in sys.modules or not hasattr(torch.compiler, "set_stance"):
            yield
            return
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._stance = torch.compiler.set_stance("force_eager")
                self._stance.__enter__()
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if self._inside == 0:
                    self._stance.__exit__(None, None, None)


uncompiled = _Uncompiled()
"""A context manager: inside, modules that `torch.compile` has compiled run as they are (torch 2.6 and newer), for what was
compiled does not look at hooks that are attached later."""


Outputs = Mapping[nn.Module, Callable[[tuple, Tensor], Tensor]]
Inputs = Mapping[nn.Module, Callable[[tuple], tuple]]


@contextmanager
def changed(outputs: Outputs | None = None, inputs: Inputs | None = None) -> Iterator[None]:
    """While active, replaces each module's output with function(inputs, output), and its positional inputs with
    function(inputs); also in a compiled network, and when gradient checkpointing computes a part of it again."""

    def attached() -> AbstractContextManager[None]:
        return _attached(outputs or {}, inputs or {})

    with _again_when_recomputed(attached), attached():
        yield


@contextmanager
def _attached(outputs: Outputs, inputs: Inputs) -> Iterator[None]:
    with ExitStack() as stack:
        stack.enter_context(uncompiled())
        for module, change in outputs.items():
            stack.callback(module.register_forward_hook(_output_hook(change)).remove)
        for module, change in inputs.items():
            stack.callback(module.register_forward_pre_hook(_input_hook(change)).remove)
        yield


def _output_hook(change: Callable[[tuple, Tensor], Tensor]) -> Callable[[nn.Module, tuple, Tensor], Tensor]:
    return lambda _module, given, result: change(given, result)


def _input_hook(change: Callable[[tuple], tuple]) -> Callable[[nn.Module, tuple], tuple]:
    return lambda _module, given: change(given)


@contextmanager
def _again_when_recomputed(changes: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    """Gradient checkpointing calls parts of the network a second time in the backward pass, when the changes are gone and
    the first result would not come out again: inside, every part that is checkpointed brings them back for that call."""
    if not torch.is_grad_enabled():
        yield
        return
    original, gone = torch.utils.checkpoint.checkpoint, False

    def checkpoint(part: Callable, *given: Any, **named: Any) -> Any:
        def run(*again: Any, **more: Any) -> Any:
            with changes() if gone else nullcontext():
                return part(*again, **more)

        return original(run, *given, **named)

    torch.utils.checkpoint.checkpoint = checkpoint
    try:
        yield
    finally:
        torch.utils.checkpoint.checkpoint, gone = original, True


@contextmanager
def recorded(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """Inside, the latest output of each module is kept under its name, with its gradient."""
    latest: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[tuple, Tensor], Tensor]:
        def note(_inputs: tuple, output: Tensor) -> Tensor:
            latest[name] = output
            return output

        return note

    with changed({module: keep(name) for name, module in modules.items()}):
        yield latest
