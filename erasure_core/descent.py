"""One optimiser step down a loss, which holds where the network computes in float16 too."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

LARGEST_SCALE = 2.0**16


class Descent:
    """Adam on `parameters`, with loss scaling (Micikevicius et al., arXiv 1710.03740, section 3.2).

    A loss is a mean over many thousand numbers of a prediction, so that its derivatives by single activations are near 1e-7:
    on a GPU without bfloat16 the network computes in float16, where most of them would be zero. The loss is scaled up before
    the backward pass and the gradients down after it. In float32 and bfloat16 that changes nothing, to the bit, because
    the scale is a power of two. If gradients overflow at a scale, it is halved, and the step is left out.
    """

    def __init__(self, parameters: Iterable[Tensor], learning_rate: float) -> None:
        self.scale = LARGEST_SCALE
        self._parameters = list(parameters)
        self._adam = torch.optim.Adam(self._parameters, lr=learning_rate)

    def step(self, loss: Tensor, learning_rate: float | None = None) -> None:
        """One step down `loss`, a scalar with gradient, of another size than before if `learning_rate` is given.

        Raises FloatingPointError if the gradients are not finite at any scale.
        """
        if learning_rate is not None:
            self._adam.param_groups[0]["lr"] = learning_rate
        self._adam.zero_grad(set_to_none=True)
        (self.scale * loss).backward(inputs=self._parameters)
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        if all(torch.stack([gradient.isfinite().all() for gradient in gradients]).tolist()):
            for gradient in gradients:
                gradient /= self.scale
            self._adam.step()
            return
        if self.scale == 1:
            raise FloatingPointError(
                f"the gradients of a loss of {float(loss.detach()):g} are not finite; lower the learning rate, "
                "or load the model in another precision"
            )
        self.scale /= 2
