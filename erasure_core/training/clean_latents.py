"""Latents of finished pictures, and fresh noise on them, for methods that learn from pictures of a concept."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..concepts import ErasureRequest
from ..denoiser import Conditioning, Denoiser
from ..guidance import classifier_free, denoised, per_sample
from .trajectory import NoisyBatch


@dataclass(frozen=True)
class CleanLatents:
    """n finished latents in model space (n, channels, ...), and the sentences that they show."""

    latents: Tensor
    conditioning: Conditioning

    def drawn(self, n: int, generator: torch.Generator) -> CleanLatents:
        """n of them, drawn evenly."""
        rows = torch.randint(len(self.latents), (n,), generator=generator).to(self.latents.device)
        return CleanLatents(self.latents[rows], self.conditioning.rows(rows))

    @staticmethod
    def cat(parts: list[CleanLatents]) -> CleanLatents:
        """All of `parts`, in order."""
        conditioning = Conditioning.cat([part.conditioning for part in parts])
        return CleanLatents(torch.cat([part.latents for part in parts]), conditioning)


def linked_pictures(request: ErasureRequest, device: torch.device) -> Tensor | None:
    """The latents (n, channels, ...) of the pictures that the user linked, or None. Raises ValueError for several concepts."""
    if request.examples is None:
        return None
    if len(request.pairs) > 1:
        raise ValueError(
            f"pictures are linked, but there are {len(request.pairs)} concepts and no saying which they show; "
            f"erase one concept at a time, or unlink the pictures"
        )
    return request.examples.to(device)


def finished(samples: NoisyBatch, runs: int, guidance_scale: float) -> CleanLatents:
    """Where `runs` guided sampling runs ended, from their samples (noise level outermost): the last step goes to noise
    level 0, so it ends at the picture that the guided prediction stands for."""
    end = len(samples.sigma)
    last = samples.rows(torch.arange(end - runs, end, device=samples.sigma.device))
    guided = classifier_free(last.unconditional, last.conditional, guidance_scale)
    return CleanLatents(denoised(last.latents, guided, last.sigma), last.conditioning)


def shown(pictures: Tensor, sentences: Conditioning) -> CleanLatents:
    """The user's pictures, each with one of the sentences, in turn; at least one for each sentence."""
    n = max(len(pictures), len(sentences))
    rows = torch.arange(n, device=pictures.device)
    return CleanLatents(pictures[rows % len(pictures)], sentences.rows(rows % len(sentences)))


def noised(denoiser: Denoiser, pictures: CleanLatents, steps: int, generator: torch.Generator) -> NoisyBatch:
    """Each picture under fresh noise, at one of the noise levels of a run of `steps` sampling steps, drawn evenly.

    In place of the frozen model's predictions stands the one that leads back to the picture, (x - x0) / sigma: the noise,
    or for a flow model the velocity (arXiv 2209.03003, equation 1). A flow model's largest noise level is 1, where
    nothing of the picture is left.
    """
    levels = denoiser.sigmas(steps)[:-1]
    sigma = levels[torch.randint(len(levels), (len(pictures.latents),), generator=generator)].to(denoiser.device)
    noise = torch.randn(pictures.latents.shape, generator=generator).to(denoiser.device)
    is_flow = float(levels[0]) <= 1.0
    # x = x0 + sigma eps; a flow model's x = (1 - sigma) x0 + sigma eps
    spread = per_sample(sigma, noise)
    latents = (1.0 - spread if is_flow else 1.0) * pictures.latents + spread * noise
    exact = (latents - pictures.latents) / spread
    return NoisyBatch(latents, sigma, pictures.conditioning, exact, exact)
