"""Micro-batches: the same predictions and gradients in less memory, chosen when memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..denoiser import Conditioning
from ..report import unwatched
from .checkpointing import by_block

_TEXTS = ("out of memory", "can't allocate memory")
Predict = Callable[[Tensor, Tensor, Conditioning], Tensor]
T = TypeVar("T")


def says_out_of_memory(error: Exception) -> bool:
    """True if the error means that memory ran out; on the CPU torch has no error type for it."""
    has_text = isinstance(error, RuntimeError) and any(text in str(error) for text in _TEXTS)
    return has_text or isinstance(error, (torch.OutOfMemoryError, MemoryError))


def free_memory() -> None:
    """Release GPU memory that torch has cached."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class MicroBatched:
    """Calls `predict` with at most `micro_batch` samples at a time; at first with all of them.

    When memory runs out, forward or backward, it halves `micro_batch`, down to single samples; then it switches on
    `checkpointing` of the network's `blocks`, if there are any. It repeats the failed call and reports the change with
    `say(text)`, in which `doing` says when. Samples do not see each other, so the result is the same.

    Gradients reach latents, noise levels, conditioning and `parameters`: all that is trained in the network must be among
    these. With micro-batches the forward pass keeps only its inputs; the backward pass computes each micro-batch again, so
    that the activations of one are held at a time, for one more forward pass. Raises the error of `predict` when a single
    sample does not fit.
    """

    def __init__(
        self,
        predict: Predict,
        say: Callable[[str], object] = unwatched,
        parameters: Iterable[nn.Parameter] = (),
        blocks: Iterable[nn.Module] = (),
        doing: str = "",
    ) -> None:
        self._predict, self._say, self._doing = predict, say, doing
        self._parameters, self._blocks = tuple(parameters), tuple(blocks)
        self.micro_batch: int | None = None
        self.checkpointing = False

    def __call__(self, latents: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        """Predictions for latents (n, channels, ...) at noise levels sigma (n,)."""
        inputs = (latents, sigma, *conditioning.values.values())
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (*inputs, *self._parameters)):
            return _Predicted.apply(self, tuple(conditioning.values), len(inputs), *inputs, *self._parameters)
        return self._or_less(
            lambda micro_batch: self._forward(_Inputs(latents, sigma, conditioning), micro_batch), len(sigma)
        )

    def _or_less(self, work: Callable[[int], T], n: int, when: str = "") -> T:
        """The result of `work`, which is given the number of samples to take at once, of n."""
        while True:
            asked = min(n, self.micro_batch or n)
            try:
                return work(asked)
            except Exception as error:
                last = asked == 1 and (self.checkpointing or not self._blocks)
                if last or not says_out_of_memory(error):
                    raise
            # only here is the failed call's memory released: while it is handled, the error holds on to it
            free_memory()
            self._take_less(asked, when)

    def _take_less(self, asked: int, when: str) -> None:
        ran_out = f"memory ran out at {asked} sample{'s' * (asked > 1)} at once{when or self._doing}"
        if asked > 1:
            self.micro_batch = asked // 2
            self._say(f"{ran_out}; goes on with {self.micro_batch} at once, same batch, slower")
        else:
            self.checkpointing = True
            self._say(f"{ran_out}; goes on with gradient checkpointing, same result, slower")

    def _call(self, inputs: _Inputs) -> Tensor:
        arguments = inputs.latents, inputs.sigma, inputs.conditioning
        if not self.checkpointing:
            return self._predict(*arguments)
        with by_block(self._blocks):
            return self._predict(*arguments)

    def _forward(self, inputs: _Inputs, micro_batch: int) -> Tensor:
        """Predictions for all samples; with a graph, if one is wanted, only of a batch that is asked for as a whole."""
        if micro_batch == len(inputs.sigma):
            return self._call(inputs)
        with torch.no_grad():
            starts = range(0, len(inputs.sigma), micro_batch)
            return torch.cat([self._call(inputs.part(start, micro_batch)) for start in starts])

    def _gradients(self, held: _Held, gradient: Tensor) -> list[Tensor | None]:
        """The gradients of everything trained, given that of the predictions: from the graph if it is held, else for one
        micro-batch after another."""
        n, when = len(held.inputs.sigma), " in the backward pass"
        total: list[Tensor | None] = [None] * len(held.trained)
        done = 0

        def next_gradients(micro_batch: int) -> tuple[int, Sequence[Tensor | None]]:
            predicted, held.predicted = held.predicted, None
            if predicted is None:
                predicted = self._call(held.inputs.part(done, micro_batch))
            wanted = gradient[done : done + len(predicted)]
            return len(predicted), torch.autograd.grad(predicted, held.trained, wanted, allow_unused=True)

        while done < n:
            with torch.enable_grad():
                count, gradients = self._or_less(next_gradients, n - done, when)
            done += count
            total = [_added(so_far, gradient) for so_far, gradient in zip(total, gradients, strict=True)]
        return total


def _added(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    if one is None or other is None:
        return other if one is None else one
    return one + other


@dataclass(frozen=True)
class _Inputs:
    latents: Tensor
    sigma: Tensor
    conditioning: Conditioning

    def part(self, start: int, count: int) -> _Inputs:
        rows = slice(start, start + count)
        return _Inputs(self.latents[rows], self.sigma[rows], self.conditioning.rows(rows))


@dataclass
class _Held:
    """Kept for the backward pass of a prediction: its inputs, and its graph if the whole batch was computed at once."""

    inputs: _Inputs
    trained: list[Tensor]
    predicted: Tensor | None


class _Predicted(torch.autograd.Function):
    """`MicroBatched` where gradients are wanted. Only a function of its own can try the backward pass again."""

    @staticmethod
    def forward(ctx: Any, batched: MicroBatched, names: tuple[str, ...], count: int, *tensors: Tensor) -> Tensor:
        apart = [tensor.detach().requires_grad_(tensor.requires_grad) for tensor in tensors[:count]]
        inputs = _Inputs(apart[0], apart[1], Conditioning(dict(zip(names, apart[2:], strict=True))))
        leaves = [*apart, *tensors[count:]]
        with torch.enable_grad():
            predicted = batched._or_less(lambda micro_batch: batched._forward(inputs, micro_batch), len(inputs.sigma))
        graph = predicted if predicted.requires_grad else None
        ctx.batched, ctx.needed = batched, [leaf.requires_grad for leaf in leaves]
        ctx.held = _Held(inputs, [leaf for leaf in leaves if leaf.requires_grad], graph)
        return predicted.detach()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        gradients = iter(ctx.batched._gradients(ctx.held, gradient))
        return (None, None, None, *(next(gradients) if needed else None for needed in ctx.needed))
