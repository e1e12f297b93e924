"""The field's formulas, once each. All take and return predictions of one shape (n, channels, ...).

A prediction is of the noise, or for flow models of the velocity; `denoised` holds for both (see `denoiser.Denoiser`).
"""

from __future__ import annotations

from torch import Tensor

WEIGHTINGS = ("balanced", "eps", "x0")


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """(n,) -> (n, 1, 1, ...), to be multiplied with `like`."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def classifier_free(unconditional: Tensor, conditional: Tensor, scale: float) -> Tensor:
    """Sampling guidance. arXiv 2207.12598, equation 6, in the form where scale 1 is the conditional prediction, whatever the
    unconditional one."""
    return conditional if scale == 1 else unconditional + scale * (conditional - unconditional)


def negative_guidance(anchor: Tensor, target: Tensor, unconditional: Tensor, eta: float | Tensor) -> Tensor:
    """The desired prediction: the anchor's, pushed away from the target. ESD, arXiv 2303.07345, equation 7, where the
    anchor is the unconditional prediction; eta 0 maps the target onto the anchor and nothing more (AP, equation 2)."""
    return anchor - eta * (target - unconditional)


def denoised(latents: Tensor, prediction: Tensor, sigma: Tensor) -> Tensor:
    """The picture that a prediction stands for: x0 = x - sigma * prediction. arXiv 2206.00364, section 5."""
    return latents - per_sample(sigma, latents) * prediction


def prediction_of(latents: Tensor, denoised: Tensor, sigma: Tensor) -> Tensor:
    """The prediction that stands for a picture, (x - x0) / sigma: `denoised` the other way round.

    Where a network predicts the noise that is its own answer, and where it predicts a flow's velocity that is. One that
    predicts v (arXiv 2202.00512) has x0 = x / (1 + sigma^2) - v sigma / sqrt(1 + sigma^2), so its noise is
    x sigma / (1 + sigma^2) + v / sqrt(1 + sigma^2)."""
    return (latents - denoised) / per_sample(sigma, latents)


def squared_error(prediction: Tensor, desired: Tensor, sigma: Tensor, weighting: str = "eps") -> Tensor:
    """Mean squared error per sample, (n,). `eps` compares predictions, as the papers write it; `x0` compares the
    pictures they stand for, as AP's reference code does, which multiplies each sample by sigma squared (1 / SNR);
    `balanced` multiplies by sqrt(1 + sigma^2), half way between: `eps` at low noise, where the details are decided, and
    more than that at high noise, where `eps` hardly sees which colour a picture is going to have."""
    error = (prediction.float() - desired.float()).square().flatten(1).mean(1)
    if weighting == "eps":
        return error
    if weighting == "balanced":
        return error * (1 + sigma.square()).sqrt()
    if weighting == "x0":
        return error * sigma.square()
    raise ValueError(f"unknown loss weighting {weighting!r}; choose one of {', '.join(WEIGHTINGS)}")


def euler_step(latents: Tensor, prediction: Tensor, sigma: Tensor, next_sigma: Tensor) -> Tensor:
    """One deterministic sampling step (DDIM with eta 0, arXiv 2010.02502, equation 12, in the variables of
    arXiv 2206.00364, algorithm 1): the latents at `next_sigma`. sigma and next_sigma are scalars."""
    return latents + (next_sigma - sigma) * prediction
