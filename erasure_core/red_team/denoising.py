"""The common steps of attacks that train: the denoising loss of pictures, and the optimisation loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..denoiser import Conditioning, Denoiser
from ..guidance import squared_error
from ..report import Report
from ..training.clean_latents import CleanLatents, noised
from ..training.optimiser import scaled_adam
from .attacked_model import AttackedModel

BATCH, LEVELS = 4, 50


def denoising_loss(
    attacked: AttackedModel,
    denoiser: Denoiser,
    pictures: CleanLatents,
    generator: torch.Generator,
    conditioning: Conditioning | None = None,
) -> Tensor:
    """The mean squared error of the predictions for BATCH of the pictures under fresh noise, a scalar with gradient (arXiv
    2208.01618, equation 2): with the pictures' own sentences, or with one `conditioning` (1) in place of all."""
    batch = noised(denoiser, pictures.drawn(BATCH, generator), LEVELS, generator)
    text = batch.conditioning if conditioning is None else conditioning.repeat(BATCH)
    predicted = denoiser.predict(batch.latents, batch.sigma, text)
    attacked.count(BATCH)
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
    optimiser = scaled_adam(denoiser, report)(parameters, learning_rate)
    for step in range(steps):
        report.check()
        error = loss(step)
        value = float(error.detach())
        if not math.isfinite(value):
            raise FloatingPointError(
                f"the loss is {value} at optimiser step {step + 1} of {steps}; lower learning_rate (now {learning_rate:g})"
            )
        optimiser.step(error)
        report.on_progress(step + 1, steps, value)
