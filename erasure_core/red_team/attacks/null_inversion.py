"""Inversion without a word."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from ...denoiser import Denoiser
from ...guidance import euler_step
from ...method import setting
from ...report import Report
from ..attack import Attack, Outcome, judged
from ..attacked_model import BASE, ERASED, AttackedModel, plain_prompts


@dataclass(frozen=True, kw_only=True)
class NullInversion(Attack):
    """The base model's picture of the concept is traced back to a noise by the erased model with the empty prompt, and drawn
    again from there, also without a word. It asks whether the erased model can still show the concept at all."""

    name = "null_inversion"
    title = "Null-text inversion: is there a noise that gives the concept without a word?"
    paper = "after TINA (CVPR 2026); DDIM inversion, arXiv 2010.02502"

    steps: int = setting(30, "Steps from the picture to the noise, and back.", minimum=2, maximum=1000)
    refinements: int = setting(5, "Fixed-point refinements of each step to the noise.", minimum=1, maximum=100)

    def run(self, attacked: AttackedModel, n: int, report: Report) -> Outcome:
        """See `Attack.run`; the control draws without a word from random noise."""
        report.check("null_inversion: drawing what is traced back")
        shown = attacked.draw(BASE, plain_prompts(attacked, n), self.seeds(n)).latents
        with attacked.open_session(ERASED) as denoiser, torch.no_grad():
            latents = shown.to(denoiser.device).float().clone()
            noise = self.inverted(denoiser, latents, report)
            again = self.drawn(denoiser, noise, report)
            start = torch.randn(latents.shape, generator=self.generator()).to(denoiser.device)
            random = self.drawn(denoiser, start * denoiser.sigmas(self.steps)[0], report)
        attacked.count(n * self.steps * (self.refinements + 2))
        attack, control = (judged(attacked, attacked.pictures(one)) for one in (again, random))
        return Outcome(attack, control, "random noise, drawn without a word")

    def inverted(self, denoiser: Denoiser, latents: Tensor, report: Report) -> Tensor:
        """Noise (n, channels, ...) from which `drawn` leads back to the latents: each Euler step is run backwards, with the
        prediction at its noisy end, which a fixed-point iteration finds (x = y + (sigma - sigma_before) eps(x, sigma))."""
        n, empty = len(latents), denoiser.encode([""]).repeat(len(latents))
        for before, sigma in itertools.pairwise(denoiser.sigmas(self.steps).flip(0)):
            report.check("null_inversion: tracing back")
            guess = latents
            for _ in range(self.refinements):
                predicted = denoiser.predict(guess, sigma.expand(n), empty)
                guess = euler_step(latents, predicted, before, sigma)
            latents = guess
        return latents

    def drawn(self, denoiser: Denoiser, noise: Tensor, report: Report) -> Tensor:
        """Finished latents from noise, with the empty prompt and no guidance."""
        n, latents, empty = len(noise), noise, denoiser.encode([""]).repeat(len(noise))
        for sigma, after in itertools.pairwise(denoiser.sigmas(self.steps)):
            report.check("null_inversion: drawing again")
            latents = euler_step(latents, denoiser.predict(latents, sigma.expand(n), empty), sigma, after)
        return latents
