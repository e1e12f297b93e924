"""One Adam step with loss scaling, safe in float16, and the step size at the end of a run."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from ..denoiser import Denoiser
from ..report import Report

LARGEST_SCALE = 2.0**16
OVERFLOWS = "optimiser_steps_left_out_after_an_overflow_in_float16"


class ScaledAdam:
    """Adam on `parameters`, with loss scaling (Micikevicius et al., arXiv 1710.03740, section 3.2).

    A loss is a mean over many thousand numbers of a prediction, so that its derivatives by single activations are near 1e-7:
    on a GPU without bfloat16 the network computes in float16, where most of them would be zero. The loss is scaled up before
    the backward pass and the gradients down after it. In float32 and bfloat16 that changes nothing, to the bit, because
    the scale is a power of two. If gradients overflow at a scale and the network computes in float16 (`half`), the scale is
    halved, the step is left out, and `report` counts it; anywhere else such a gradient is an error of its own.
    """

    def __init__(
        self, parameters: Iterable[Tensor], learning_rate: float, *, half: bool = False, report: Report | None = None
    ) -> None:
        self.scale = LARGEST_SCALE
        self._parameters, self._half, self._report = list(parameters), half, report
        self._adam = torch.optim.Adam(self._parameters, lr=learning_rate)
        self._asked = 0

    def step(self, loss: Tensor, learning_rate: float | None = None) -> None:
        """One step down `loss`, a scalar with gradient, of another size than before if `learning_rate` is given.

        Raises FloatingPointError, naming the step, if the loss is not finite, or the gradients are not: in float16, at any
        scale.
        """
        self._asked += 1
        value = float(loss.detach())
        if not math.isfinite(value):
            raise FloatingPointError(f"the loss is not finite ({value}) at step {self._asked}; {self._advice()}")
        if learning_rate is not None:
            self._adam.param_groups[0]["lr"] = learning_rate
        self._adam.zero_grad(set_to_none=True)
        (self.scale * loss).backward(inputs=self._parameters)

        # stacked, so that a GPU is waited for once
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        if all(torch.stack([gradient.isfinite().all() for gradient in gradients]).tolist()):
            for gradient in gradients:
                gradient /= self.scale
            self._adam.step()
            return
        if self.scale == 1 or not self._half:
            raise FloatingPointError(
                f"the gradients of a loss of {value:g} are not finite at step {self._asked}; {self._advice()}"
            )
        self.scale /= 2
        if self._report is not None:
            self._report.costs[OVERFLOWS] += 1

    def _advice(self) -> str:
        rate = self._adam.param_groups[0]["lr"]
        return f"nothing was returned. Lower the learning rate (now {rate:g}), or load the model in another precision"


def slowed(learning_rate: float, step: int, steps: int) -> float:
    """The step size at `step` of `steps`: the whole `learning_rate`, and in the last fifth down to zero in a line."""
    return learning_rate * min(1.0, 5 * (steps - step) / steps)


def scaled_adam(denoiser: Denoiser, report: Report) -> Callable[..., ScaledAdam]:
    """`ScaledAdam` for losses of this network, which may overflow if it computes in float16; a denoiser that does not say its
    `dtype` does not."""
    half = getattr(denoiser, "dtype", None) == torch.float16
    return functools.partial(ScaledAdam, half=half, report=report)
