"""What attacks that learn have alike: the denoising loss of pictures, and the loop that minimises."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..denoiser import Conditioning, Denoiser
from ..descent import descent_of
from ..guidance import squared_error
from ..pictures import Pictures, noised
from ..report import Report
from .subject import Subject

BATCH, LEVELS = 4, 50


def denoising_loss(
    subject: Subject,
    denoiser: Denoiser,
    pictures: Pictures,
    generator: torch.Generator,
    conditioning: Conditioning | None = None,
) -> Tensor:
    """The mean squared error of the predictions for BATCH of the pictures under fresh noise, a scalar with gradient (arXiv
    2208.01618, equation 2): with the pictures' own sentences, or with one `conditioning` (1) in place of all."""
    batch = noised(denoiser, pictures.drawn(BATCH, generator), LEVELS, generator)
    said = batch.conditioning if conditioning is None else conditioning.repeat(BATCH)
    predicted = denoiser.predict(batch.latents, batch.sigma, said)
    subject.calls += BATCH
    return squared_error(predicted, batch.conditional, batch.sigma).mean()


def minimise(
    denoiser: Denoiser,
    parameters: Sequence[Tensor],
    steps: int,
    learning_rate: float,
    loss: Callable[[int], Tensor],
    report: Report,
) -> None:
    """Adam's steps down the scalars `loss(step)`, which hang on the denoiser's predictions.

    Raises FloatingPointError, naming the step, if one is not finite, and whatever `report.check` raises on a cancel.
    """
    descent = descent_of(denoiser, report)(parameters, learning_rate)
    for step in range(steps):
        report.check()
        error = loss(step)
        value = float(error.detach())
        if not math.isfinite(value):
            raise FloatingPointError(
                f"the loss is {value} at optimiser step {step + 1} of {steps}; lower learning_rate (now {learning_rate:g})"
            )
        descent.step(error)
        report.on_progress(step + 1, steps, value)
