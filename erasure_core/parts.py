"""A batch in parts: the same predictions and gradients in less memory, chosen when memory runs out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .denoiser import Conditioning
from .report import unwatched

_TEXTS = ("out of memory", "can't allocate memory")
Predict = Callable[[Tensor, Tensor, Conditioning], Tensor]


def says_out_of_memory(error: Exception) -> bool:
    """True for the ways in which torch says that memory ran out; on the CPU it has no type for it."""
    said = isinstance(error, RuntimeError) and any(text in str(error) for text in _TEXTS)
    return said or isinstance(error, (torch.OutOfMemoryError, MemoryError))


def free_memory() -> None:
    """Give back what torch holds of a GPU's memory without using it."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class InParts:
    """`predict`, asked for at most `at_once` samples in one call; at first for all of them.

    When memory runs out in a call, `at_once` is halved and the call repeated, down to single samples; `say(text)` is told.
    Where gradients are wanted, each part keeps only its inputs and is computed again in the backward pass (gradient
    checkpointing, arXiv 1604.06174): the activations of one part are held at a time. That costs one more forward pass.
    Samples do not see each other, so that a batch means the same in parts. Raises what `predict` raised when a single
    sample does not fit.
    """

    def __init__(self, predict: Predict, say: Callable[[str], object] = unwatched) -> None:
        self._predict, self._say = predict, say
        self.at_once: int | None = None

    def __call__(self, latents: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        """Predictions for latents (n, channels, ...) at noise levels sigma (n,)."""
        while True:
            asked = min(len(sigma), self.at_once or len(sigma))
            try:
                return self._all(latents, sigma, conditioning, asked)
            except Exception as error:
                if asked == 1 or not says_out_of_memory(error):
                    raise
            # only here is the failed call's memory released: while it is handled, the error holds on to it
            self.at_once = asked // 2
            free_memory()
            self._say(
                f"memory ran out at {asked} samples at once; goes on with {self.at_once} at once, same batch, slower"
            )

    def _all(self, latents: Tensor, sigma: Tensor, conditioning: Conditioning, at_once: int) -> Tensor:
        if at_once == len(sigma):
            return self._predict(latents, sigma, conditioning)
        parts = []
        for rows in torch.arange(len(sigma), device=sigma.device).split(at_once):
            arguments = latents[rows], sigma[rows], conditioning.rows(rows)
            if torch.is_grad_enabled():
                parts.append(checkpoint(self._predict, *arguments, use_reentrant=False, preserve_rng_state=False))
            else:
                parts.append(self._predict(*arguments))
        return torch.cat(parts)
