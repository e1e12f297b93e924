"""AP's loop as its published code runs it, call by call, for comparison: arXiv 2410.15618, equation 5.

Each loop draws a target, a candidate and a noise level, and samples two latents up to that level with the network as it
is now: about as many guided steps as there are noise levels, for one sample each of target and candidate, of which only
the last latents are used. Every other loop changes the edit, those between change the search.

Mended, because the fault leaves nothing to compare: a latent is scored at its own noise level, not at one about two
sampling steps noisier, and no target is among the candidates. Not repeated: a second copy of the model and the gradients of
weights that are not trained, which cost memory and time and change no number.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..denoiser import Conditioning
from ..guidance import negative_guidance
from ..text.candidates import Candidates
from ..training.trained import Training
from ..training.trajectory import NoisyBatch, guided_run
from .adversary import Gumbel


@dataclass(frozen=True)
class Loop:
    """One loop's data: a noisy sample of the target and the desired prediction for it, a sample of the candidate that was
    drawn, and the search that drew it."""

    target: NoisyBatch
    desired: Tensor
    preserved: NoisyBatch
    search: Gumbel
    word: str


@dataclass
class ReferenceLoop:
    """Draws the loops of a run. `searches` holds one search for each target, over the same candidates."""

    run: Training
    candidates: Candidates
    searches: Mapping[str, Gumbel]
    steps: int
    guidance_scale: float
    eta: float

    def losses(self, retain_weight: float) -> dict[str, Tensor]:
        """Equation 5 in the next loop for the edit, after the loop for the search that lies between two of them."""
        if self.run.step:
            loop = self.loop(searching=True)
            _, retain = self.run.erase_and_retain(loop.target, loop.desired, loop.preserved)
            loop.search.ascend(retain)
        loop = self.loop(searching=False)
        self.run.report.adversarial[loop.word] += 1
        erase, retain = self.run.erase_and_retain(loop.target, loop.desired, loop.preserved)
        return {"erase": erase, "retain": retain_weight * retain}

    def loop(self, searching: bool) -> Loop:
        """The next loop; `searching` lets gradients through the candidate's text to the logits that drew it."""
        run, encode = self.run, self.run.denoiser.encode
        pair = run.pick(run.request.pairs)
        search = self.searches[pair.target]
        word, hard, drawn = search.draw()
        steps, _ = run.denoiser.sampling(self.steps, self.guidance_scale)
        level = int(torch.randint(steps, (), generator=run.generator))
        noise = torch.randn(run.denoiser.empty_latents(1).shape, generator=run.generator).to(run.denoiser.device)

        # z_e and z_a of equation 5: both from the same noise, by the network as it is now
        z_e, sigma = self._sampled(encode([pair.target]), noise, level)
        z_a, _ = self._sampled(self.candidates.conditioning.mixed(hard), noise, level)

        conditional, unconditional = (self._teacher(z_e, sigma, encode([prompt])) for prompt in (pair.target, ""))
        anchor = self._teacher(z_e, sigma, encode([pair.anchor])) if pair.anchor else unconditional
        original = self._teacher(z_a, sigma, self.candidates.conditioning.mixed(hard))
        text = self.candidates.conditioning.mixed(drawn if searching else hard)
        not_predicted = torch.full_like(original, torch.nan)
        return Loop(
            NoisyBatch(z_e, sigma, encode([pair.target]), conditional, unconditional),
            negative_guidance(anchor, conditional, unconditional, self.eta),
            NoisyBatch(z_a, sigma, text, original, not_predicted),
            search,
            word,
        )

    def _sampled(self, text: Conditioning, noise: Tensor, level: int) -> tuple[Tensor, Tensor]:
        """Latents (1, channels, ...) sampled from `noise` with the present network, and their noise level (1,)."""
        run = self.run
        steps, _ = run.denoiser.sampling(self.steps, self.guidance_scale)
        sigmas = run.denoiser.sigmas(steps)
        latents = noise * sigmas[0]
        partial = guided_run(run.denoiser, text, noise, self.steps, self.guidance_scale, run.report.check)
        for _, after in itertools.islice(partial, level):
            latents = after
            run.pool.count(2)
        return latents, sigmas[level : level + 1]

    @torch.no_grad()
    def _teacher(self, latents: Tensor, sigma: Tensor, text: Conditioning) -> Tensor:
        """The frozen network's prediction, computed anew each time."""
        self.run.report.costs["UNet_evaluations_of_the_teacher"] += len(sigma)
        with self.run.deltas.disabled():
            return self.run.denoiser.predict(latents, sigma, text)
