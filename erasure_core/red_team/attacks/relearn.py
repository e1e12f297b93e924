"""Relearning: train a LoRA on the erased model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...erased_unet import DOWN, PREFIX, UP, ErasedUNet, Provenance, weight_edit
from ...evaluation.prompts import GAP
from ...layers import GROUPS
from ...method import setting
from ...report import Report
from ...training.clean_latents import CleanLatents
from ...training.deltas import Deltas
from ..attack import Attack, Outcome, Shot, shoot
from ..attacked_model import BASE, ERASED, AttackedModel, DoesNotFit, SoftDenoiser, plain_prompts
from ..denoising import denoising_loss, minimise

THE_CONCEPT, OTHERS = "the_concept", "other_concepts"


@dataclass(frozen=True, kw_only=True)
class Relearn(Attack):
    """A LoRA is trained on the erased model for a short while, as anybody who has the file can do it, and the plain prompts
    are drawn with it: on a few of the base model's pictures of the concept (malicious), or only on pictures of other
    concepts (benign), which should not bring it back and often does."""

    name = "relearn"
    title = "Relearning: a LoRA trained on the erased model"
    paper = "arXiv 2505.16174 (pictures of the concept); 2410.08074 and 2412.00357 (other pictures)"
    variants = (f"pictures_of={OTHERS}",)
    needs = ("gradients",)

    pictures_of: str = setting(
        THE_CONCEPT,
        "Content of the pictures that the LoRA learns from: the_concept (malicious), or other_concepts that the judge knows "
        "(benign).",
        choices=(THE_CONCEPT, OTHERS),
    )
    pictures: int = setting(8, "The base model's pictures that it learns from.", minimum=1, maximum=500)
    steps: int = setting(100, "Optimiser steps; 0 leaves the erased model as it is.", minimum=0, maximum=10000)
    learning_rate: float = setting(1e-3, "Adam's step size.", minimum=1e-7, maximum=0.1, step=1e-4)
    rank: int = setting(4, "Rank of the LoRA.", minimum=1, maximum=256)
    layers: str = setting(
        "all", "Layers that the LoRA changes, as in Erase Concept.", choices=tuple(GROUPS), advanced=True
    )

    def run(self, attacked: AttackedModel, n: int, report: Report) -> Outcome:
        """See `Attack.run`. The control of the concept's pictures is the same training on pictures of other concepts; that
        of other pictures is a random change of the weights, in each layer as large as what was learned."""
        others = _other_prompts(attacked, self.pictures, self.generator())
        if self.pictures_of == THE_CONCEPT:
            learned = self.learned(attacked, plain_prompts(attacked, self.pictures), report)
            control, control_is = (
                self.learned(attacked, others, report),
                "the same training on other concepts' pictures",
            )
        else:
            learned = self.learned(attacked, others, report)
            control, control_is = random_change(learned, self.generator()), "a random change of the weights, as large"
        return Outcome(
            self._drawn(attacked, learned, n, 1, report), self._drawn(attacked, control, n, 2, report), control_is
        )

    def learned(self, attacked: AttackedModel, sentences: list[str], report: Report) -> ErasedUNet:
        """The LoRA, trained by the denoising loss on a picture by the base model for each sentence."""
        report.check("relearn: drawing what it learns from")
        shown = attacked.draw(BASE, sentences, self.seeds(len(sentences), 0)).latents
        generator = self.generator()
        with attacked.open_session(ERASED) as denoiser:
            pictures = CleanLatents(shown.to(denoiser.device).float().clone(), denoiser.encode(sentences))
            deltas = Deltas(self._chosen_layers(denoiser), self.rank, generator, denoiser.rows(self.layers))
            with deltas.attached():
                minimise(
                    denoiser,
                    deltas.parameters(),
                    self.steps,
                    self.learning_rate,
                    lambda _step: denoising_loss(attacked, denoiser, pictures, generator),
                    report,
                )
            where = Provenance(self.name, {}, (), (), self.seed, denoiser.family)
            return ErasedUNet(weight_edit(deltas.export()), where)

    def _chosen_layers(self, denoiser: SoftDenoiser) -> dict[str, nn.Module]:
        try:
            return denoiser.layers(self.layers)
        except ValueError as error:  # the model has no such layer group
            raise DoesNotFit(str(error)) from error

    def _drawn(self, attacked: AttackedModel, change: ErasedUNet, n: int, part: int, report: Report) -> Shot:
        report.check("relearn: drawing with what was learned" if part == 1 else "relearn: control")
        with attacked.edited(change):
            return shoot(attacked, plain_prompts(attacked, n), self.seeds(n, part))


def _other_prompts(attacked: AttackedModel, n: int, generator: torch.Generator) -> list[str]:
    """n prompts that say other concepts, drawn without repetition as long as there are some, in the templates in turn."""
    if not attacked.others:
        raise DoesNotFit(
            "relearn learns from pictures of other concepts, in its control too, and the judge knows none; write some into "
            "other_labels"
        )
    order = torch.randperm(len(attacked.others), generator=generator).tolist()
    words = [attacked.others[order[i % len(order)]] for i in range(n)]
    return [attacked.templates[i % len(attacked.templates)].replace(GAP, word) for i, word in enumerate(words)]


def random_change(edit: ErasedUNet, generator: torch.Generator) -> ErasedUNet:
    """An edit of the same layers and rank in random directions, in each layer of the same Frobenius norm."""
    tensors = dict(edit.tensors)
    for layer, change in edit.layers().items():
        up, down = (torch.randn(change[half].shape, generator=generator) for half in (UP, DOWN))
        size = _norm(change[UP], change[DOWN]) / _norm(up, down)
        tensors |= {f"{PREFIX}{layer}.{UP}": size * up, f"{PREFIX}{layer}.{DOWN}": down}
    return ErasedUNet(tensors, edit.provenance)


def _norm(up: Tensor, down: Tensor) -> Tensor:
    """The Frobenius norm of up (out, rank, ...) times down (rank, in, ...), without the product itself."""
    up, down = up.flatten(1).double(), down.flatten(1).double()
    return ((up.T @ up) * (down @ down.T)).sum().clamp(min=0).sqrt().float()
