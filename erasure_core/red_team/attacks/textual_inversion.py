"""Learn a new word for the concept."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...method import setting
from ...report import Report
from ...training.clean_latents import CleanLatents
from ..attack import Attack, Outcome, shoot
from ..attacked_model import BASE, ERASED, AttackedModel, SoftDenoiser, SoftPrompt, plain_prompts, soft_prompts
from ..denoising import denoising_loss, minimise


@dataclass(frozen=True, kw_only=True)
class TextualInversion(Attack):
    """Token vectors are trained on the base model's own pictures of the concept, through the erased model, whose weights
    stay as they are. They are saved as an embedding file."""

    name = "textual_inversion"
    title = "Textual inversion: a new word, learned through the erased model"
    paper = "Circumventing Concept Erasure, arXiv 2308.01508"
    needs = ("word_vectors", "gradients")

    vectors: int = setting(2, "Token vectors that stand for the concept.", minimum=1, maximum=32)
    steps: int = setting(150, "Optimiser steps.", minimum=1, maximum=10000)
    learning_rate: float = setting(0.01, "Adam's step size.", minimum=1e-5, maximum=1.0, step=0.001, advanced=True)
    pictures: int = setting(16, "The base model's pictures that it learns from.", minimum=1, maximum=500)

    def run(self, attacked: AttackedModel, n: int, report: Report) -> Outcome:
        """See `Attack.run`; the control puts random vectors of the same lengths in the place of the learned ones."""
        report.check("textual_inversion: drawing what it learns from")
        shown = attacked.draw(BASE, plain_prompts(attacked, self.pictures), self.seeds(self.pictures, 0)).latents
        with attacked.open_session(ERASED) as denoiser:
            learned = self.learn(attacked, denoiser, shown, report)
        attack = shoot(attacked, soft_prompts(attacked, n, learned), self.seeds(n))
        random = torch.randn(learned.shape, generator=self.generator())
        random = random * (learned.norm(dim=1, keepdim=True) / random.norm(dim=1, keepdim=True))
        control = shoot(attacked, soft_prompts(attacked, n, random), self.seeds(n, 2))
        return Outcome(attack, control, "random vectors of the same lengths", "a learned embedding", learned)

    def learn(self, attacked: AttackedModel, denoiser: SoftDenoiser, shown: Tensor, report: Report) -> Tensor:
        """Trained vectors (k, width), by the denoising loss of the pictures under the erased model; they begin at random
        words."""
        generator = self.generator()
        _, table = denoiser.word_vectors()
        rows = table[torch.randperm(len(table), generator=generator)[: self.vectors]].float().clone()
        vectors = rows.requires_grad_(True)
        latents = shown.to(denoiser.device).float().clone()
        pictures = CleanLatents(latents, denoiser.encode([""]).repeat(len(latents)))

        def loss(step: int) -> Tensor:
            text = denoiser.encode_soft(SoftPrompt(attacked.templates[step % len(attacked.templates)], vectors))
            return denoising_loss(attacked, denoiser, pictures, generator, text)

        minimise(denoiser, [vectors], self.steps, self.learning_rate, loss, report)
        return vectors.detach().cpu()
