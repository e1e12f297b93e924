"""DuMo, dual encoder modulation, arXiv 2501.01125: a frozen UNet whose skip connections a second encoder corrects.

skip_l + gamma(prompt) * s[bin(sigma), l] * r_l with r_l = ZeroConv_l(SideEncoder_l(z, sigma, c)). The side encoder is the
network's own encoder with low-rank deltas, in a pass of its own. Two phases, reconstructed from the abstract, for the
paper's own losses are not public: first deltas and zero convolutions by
||eps_edit(z, c) - desired||^2 + lambda mean_l ||r_l(z, c~)||^2 / ||skip_l||^2 for other meanings c~; then, these frozen,
the scales s by ||eps_edit(z, c) - desired||^2 + lambda ||eps_edit(z, c~) - eps(z, c~)||^2.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from ..concepts import ErasureRequest
from ..denoiser import Conditioning, Denoiser
from ..erased_unet import HOOK_PREFIX, ErasedUNet
from ..erased_unet.declared import GATE, LOW_RANK
from ..hooks.gate import make_gate
from ..hooks.low_rank import with_prefix
from ..hooks.side_encoder import SideEncoder, SkipCorrections
from ..inference import InferenceEdit
from ..memory.planning import Plan
from ..method import check_prompts, provenance, setting
from ..report import Report, part_of
from ..text.latent_anchors import latent_anchors, other_meanings
from ..text.vocabulary import word_list
from ..training.run import optimise
from ..training.settings import (
    block_checkpointing,
    eta,
    noise_level_weighting,
    optimiser_steps,
    retaining,
    sampling_length,
    sampling_scale,
    step_size,
    target_trajectories,
)
from ..training.trained import GradientMethod, Training
from ..training.trajectory import NoisyBatch


@dataclass(frozen=True, kw_only=True)
class DualEncoderModulation(GradientMethod):
    """The UNet stays as it is; for prompts that say the concept, a side encoder corrects the skip connections."""

    name = "dumo"
    title = "DuMo: a side encoder on the skips"
    paper = "arXiv 2501.01125"
    needs = ("gradients", "unet_blocks")
    in_micro_batches = False
    parts = {
        "{concept}": {"edges": "bins-1", "scales": "bins skips"},
        "{concept}.gate": GATE,
        "{concept}.lora.{layer}": LOW_RANK,
        "{concept}.skip.{skips}.{layer}.to.{layer}": {"weight": "channels channels", "bias": "channels"},
    }

    steps: int = optimiser_steps(200)
    scale_steps: int = setting(
        20, "Steps after that in which only the scales of noise levels and skips are learned.", minimum=0, maximum=10000
    )
    learning_rate: float = step_size()
    scale_learning_rate: float = setting(
        0.02, "Step size of Adam for the scales.", minimum=1e-6, maximum=1.0, step=0.01, advanced=True
    )
    rank: int = setting(8, "Rank of the side encoder's deltas.", minimum=1, maximum=256)
    time_bins: int = setting(
        5, "Ranges of noise levels that have scales of their own (the paper has 20).", minimum=1, maximum=100
    )
    negative_guidance: float = eta(3.0)
    retain_weight: float = retaining(0.01, "Weight of leaving other meanings as they were (lambda).", step=0.01)
    candidates: int = setting(
        24, "Number of words that the other meanings are mixed from.", minimum=2, maximum=3000, advanced=True
    )
    vocabulary: str = word_list("Where these words come from.", advanced=True)
    batch: int = setting(
        4,
        "Noisy samples of the target in an optimiser step, and as many other meanings.",
        minimum=1,
        maximum=64,
        advanced=True,
    )
    guidance_scale: float = sampling_scale()
    sampling_steps: int = sampling_length()
    trajectories: int = target_trajectories()
    loss_weighting: str = noise_level_weighting("balanced")
    checkpointing: str = block_checkpointing()

    def erase(self, denoiser: Denoiser, request: ErasureRequest, report: Report) -> ErasedUNet:
        """See `ErasureMethod.erase`; each concept has a side encoder and a gate of its own."""
        check_prompts(denoiser, request)
        generator = torch.Generator().manual_seed(self.seed)
        meanings = other_meanings(denoiser, request, self.vocabulary, self.candidates, generator, report.check)
        each = self.steps + self.scale_steps
        plan, tensors = None, {}
        for number, pair in enumerate(request.pairs):
            alone = dataclasses.replace(request, pairs=(pair,))
            gate = make_gate(denoiser, pair.target, request.retain, generator)
            progress = part_of(report, number * each, len(request.pairs) * each)
            side = SideEncoder(denoiser, self.rank, self.time_bins, self.sampling_steps, generator)
            run = self.assemble(denoiser, alone, side, generator, progress)
            plan = plan or self.plan(run, request)
            self._train(run, plan, side, meanings)
            if side.is_zero():
                raise ValueError(
                    f"the erasure changed nothing: after {self.steps} optimiser steps every zero convolution is zero. "
                    f"Raise learning_rate (now {self.learning_rate:g}) or steps"
                )
            tensors |= with_prefix(f"{HOOK_PREFIX}{number}.gate.", gate.tensors())
            tensors |= with_prefix(f"{HOOK_PREFIX}{number}.", side.tensors())
        return ErasedUNet(tensors, provenance(self, denoiser, request, kind="hook"))

    @classmethod
    def inference(cls, erased: ErasedUNet) -> InferenceEdit:
        """A pass of the side encoder for each concept that the prompts say, then the frozen network with its residuals."""
        return SkipCorrections(erased.parts())

    def _train(self, run: Training, plan: Plan, side: SideEncoder, meanings: Conditioning) -> None:
        """Phase one: deltas and zero convolutions; phase two: the scales alone."""
        with self.learning(run, plan):
            self.draw_targets(run)
            target = run.denoiser.encode(run.request.targets)
            optimise(run, self.steps, self.learning_rate, lambda: self._side_losses(run, side, meanings, target))
            side.only_scales = True
            run.report = part_of(run.report, self.steps)
            optimise(
                run, self.scale_steps, self.scale_learning_rate, lambda: self._scale_losses(run, side, meanings, target)
            )

    def _others(
        self, samples: NoisyBatch, meanings: Conditioning, target: Conditioning, generator: torch.Generator
    ) -> NoisyBatch:
        """The same noisy samples with other meanings (SPM's latent anchoring); their predictions are not used."""
        return dataclasses.replace(
            samples, conditioning=latent_anchors(meanings, target, len(samples.sigma), generator)
        )

    def _side_losses(
        self, run: Training, side: SideEncoder, meanings: Conditioning, target: Conditioning
    ) -> dict[str, Tensor]:
        """Phase one: erase, and give nothing for other meanings."""
        samples, desired = run.targets(self.batch, self.negative_guidance)
        others = self._others(samples, meanings, target, run.generator)
        features, residuals = side.residuals(NoisyBatch.cat([samples, others]))
        n = len(samples.sigma)
        predicted = side.predict(samples, [residual[:n] for residual in residuals])
        run.report.costs["UNet_evaluations_with_gradient"] += n
        run.report.costs["encoder_evaluations_with_gradient"] += 2 * n
        # ||r_l||^2 / ||skip_l||^2 for the other meanings: skips differ in size by orders of magnitude
        relative_sizes = []
        for feature, residual in zip(features, residuals, strict=True):
            size = feature[n:].detach().float().square().mean().clamp(min=1e-8)
            relative_sizes.append(residual[n:].float().square().mean() / size)
        return {
            "erase": run.error(predicted, desired, samples.sigma),
            "retain": self.retain_weight * torch.stack(relative_sizes).mean(),
        }

    def _scale_losses(
        self, run: Training, side: SideEncoder, meanings: Conditioning, target: Conditioning
    ) -> dict[str, Tensor]:
        """Phase two: erase, and predict for other meanings what the frozen network does."""
        samples, desired = run.targets(self.batch, self.negative_guidance)
        others = self._others(samples, meanings, target, run.generator)
        before = run.pool.predict(others)
        both = NoisyBatch.cat([samples, others])
        _, residuals = side.residuals(both)
        predicted, predicted_others = side.predict(both, residuals).chunk(2)
        run.report.costs["UNet_evaluations_with_gradient"] += len(both.sigma)
        return {
            "erase": run.error(predicted, desired, samples.sigma),
            "retain_pictures": self.retain_weight * run.error(predicted_others, before, others.sigma),
        }
