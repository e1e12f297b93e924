"""The seam of an evaluation: the host draws prompts from seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """How every picture is drawn; the names are those of ComfyUI's KSampler."""

    width: int
    height: int
    steps: int
    cfg: float
    sampler_name: str
    scheduler: str
    batch_size: int = 8


@dataclass(frozen=True)
class Samples:
    """n finished pictures: latents in model space (n, channels, ...) and images (n, height, width, 3) in [0, 1]."""

    latents: Tensor
    pictures: Tensor


class ImageSampler(Protocol):
    """A model with its text encoder, autoencoder and sampler."""

    def draw(self, prompts: Sequence[str], seeds: Sequence[int], guidance_scale: float | None = None) -> Samples:
        """One picture a prompt, each from the noise of its own seed; None takes the sampling's own guidance.

        Two samplers with the same settings give equal pictures for equal models, bit for bit.
        """
        ...

    def sized(self, width: int, height: int) -> ImageSampler:
        """The same sampler for pictures of another size. Raises ValueError if that does not fit the model's latents."""
        ...
