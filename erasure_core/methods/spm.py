"""SPM, semi-permeable membranes, arXiv 2312.16145: one thin adapter a concept, let through as far as the prompt says it.

||eps_edit(z, c) - (eps(z, anchor) - eta (eps(z, c) - eps(z, "")))||^2  (the erasing loss), plus
lambda ||eps_edit(z, c~) - eps(z, c~)||^2 for random embeddings c~, each kept with probability 1 - cos(c~, c) (latent
anchoring). At inference the adapters of a concept act at gamma(prompt) * strength (facilitated transport):
W x + gamma * strength * up (down x), gamma by `gate.Gate`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..concepts import ErasureRequest
from ..denoiser import Conditioning, Denoiser
from ..erased_unet import HOOK_PREFIX, ErasedUNet, weight_edit
from ..erased_unet.declared import GATE, LOW_RANK
from ..hooks.gate import Gate, make_gate
from ..hooks.low_rank import CastCache, by_concept, low_rank_changes, low_rank_tensors, with_prefix
from ..inference import Forward, InferenceEdit, ModelCall, changed
from ..memory.planning import Plan
from ..method import check_prompts, provenance, setting
from ..report import Report, part_of
from ..text.latent_anchors import latent_anchors, other_meanings
from ..text.vocabulary import word_list
from ..training.deltas import Deltas
from ..training.run import optimise
from ..training.settings import (
    block_checkpointing,
    eta,
    noise_level_weighting,
    optimiser_steps,
    sampling_length,
    sampling_scale,
    step_size,
    target_trajectories,
)
from ..training.trained import GradientMethod, Training
from ..training.trajectory import NoisyBatch

LORA = "lora."


@dataclass(frozen=True, kw_only=True)
class SemiPermeableMembrane(GradientMethod):
    """Thin adapters on every layer of the transformer blocks, which only open for prompts that say their concept."""

    name = "spm"
    title = "SPM: thin adapters with a text gate"
    paper = "arXiv 2312.16145"
    needs = ("gradients", "unet_blocks")
    parts = {"{concept}.gate": GATE, "{concept}.lora.{layer}": LOW_RANK}

    gate: bool = setting(
        True,
        "Let the edit act only as far as the prompt speaks of the concept. Off, the result is an ordinary LoRA that the "
        "stock LoRA loader takes, and acts on every prompt.",
    )
    steps: int = optimiser_steps()
    learning_rate: float = step_size(3e-3)
    rank: int = setting(1, "Rank of the adapter on each layer; the paper's is 1.", minimum=1, maximum=256)
    negative_guidance: float = eta(1.0)
    retain_weight: float = setting(
        0.5, "Weight of latent anchoring: of leaving random other meanings as they were.", minimum=0.0, maximum=10000.0
    )
    candidates: int = setting(
        24, "Number of words that the random meanings are mixed from.", minimum=2, maximum=3000, advanced=True
    )
    vocabulary: str = word_list("Where these words come from.", advanced=True)
    batch: int = setting(
        4,
        "Noisy samples of the target in an optimiser step, and as many random meanings.",
        minimum=1,
        maximum=64,
        advanced=True,
    )
    guidance_scale: float = sampling_scale()
    sampling_steps: int = sampling_length()
    trajectories: int = target_trajectories()
    loss_weighting: str = noise_level_weighting()
    checkpointing: str = block_checkpointing()

    def erase(self, denoiser: Denoiser, request: ErasureRequest, report: Report) -> ErasedUNet:
        """See `ErasureMethod.erase`. Each concept gets adapters of its own, trained without the others, so that each can
        have its own gate; kind `hook` with the gate, `weights` without."""
        check_prompts(denoiser, request)
        generator = torch.Generator().manual_seed(self.seed)
        layers = transformer_layers(denoiser)
        meanings = other_meanings(denoiser, request, self.vocabulary, self.candidates, generator, report.check)
        plan, exports, tensors = None, [], {}
        for number, pair in enumerate(request.pairs):
            alone = dataclasses.replace(request, pairs=(pair,))
            deltas = Deltas(layers, self.rank, generator)
            # the gate first: it names what it cannot tell apart before minutes are spent
            gate = make_gate(denoiser, pair.target, request.retain, generator) if self.gate else None
            progress = part_of(report, number * self.steps, len(request.pairs) * self.steps)
            run = self.assemble(denoiser, alone, deltas, generator, progress)
            plan = plan or self.plan(run, request)
            self._train(run, plan, meanings)
            exports.append(deltas.export())
            if gate is not None:
                tensors |= with_prefix(f"{HOOK_PREFIX}{number}.gate.", gate.tensors())
                tensors |= with_prefix(f"{HOOK_PREFIX}{number}.{LORA}", low_rank_tensors(exports[-1]))
        if not any(bool(v.any()) for export in exports for k, v in export.items() if k.endswith("lora_up.weight")):
            raise ValueError(
                f"the erasure changed nothing: after {self.steps} optimiser steps every adapter is zero. "
                f"Raise learning_rate (now {self.learning_rate:g}) or steps"
            )
        if self.gate:
            return ErasedUNet(tensors, provenance(self, denoiser, request, kind="hook"))
        return ErasedUNet(weight_edit(joined(exports)), provenance(self, denoiser, request))

    @classmethod
    def inference(cls, erased: ErasedUNet) -> InferenceEdit:
        """Every concept's adapters, each row of the batch at its own gate."""
        return Membranes(erased.parts())

    def _train(self, run: Training, plan: Plan, meanings: Conditioning) -> None:
        with self.learning(run, plan), run.deltas.attached():
            self.draw_targets(run)
            target = run.denoiser.encode(run.request.targets)
            optimise(run, self.steps, self.learning_rate, lambda: self._losses(run, meanings, target))

    def _losses(self, run: Training, meanings: Conditioning, target: Conditioning) -> dict[str, Tensor]:
        samples, desired = run.targets(self.batch, self.negative_guidance)
        others = latent_anchors(meanings, target, len(samples.sigma), run.generator)
        before = run.pool.predict(dataclasses.replace(samples, conditioning=others))
        run.report.costs["UNet_evaluations_of_anchors"] += len(samples.sigma)
        anchors = NoisyBatch(samples.latents, samples.sigma, others, before, before)
        erase, retain = run.erase_and_retain(samples, desired, anchors)
        return {"erase": erase, "anchoring": self.retain_weight * retain}


def transformer_layers(denoiser: Denoiser) -> dict[str, nn.Module]:
    """Every Linear and convolution inside the network's transformer blocks."""
    blocks = tuple(f"{name}." for name in denoiser.blocks("transformer"))
    return {name: layer for name, layer in denoiser.layers("all").items() if name.startswith(blocks)}


def joined(exports: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The sum of several low-rank edits of the same layers as one: their ranks add up."""
    if len(exports) == 1:
        return exports[0]
    axis = {"lora_up.weight": 1, "lora_down.weight": 0}
    edit = {}  # alpha is the rank, so it is summed
    for key in exports[0]:
        values = [export[key] for export in exports]
        suffix = next((suffix for suffix in axis if key.endswith(suffix)), None)
        edit[key] = torch.stack(values).sum(0) if suffix is None else torch.cat(values, axis[suffix])
    return edit


class Membranes:
    """`inference.InferenceEdit` of gated adapters: one pass, each row and concept at its own gate."""

    def __init__(self, parts: Mapping[str, Tensor]) -> None:
        concepts = by_concept(parts)
        self._gates = [Gate.read(tensors, "gate.") for tensors in concepts]
        self._adapters = [
            CastCache({name.removeprefix(LORA): v for name, v in tensors.items() if name.startswith(LORA)})
            for tensors in concepts
        ]

    def __call__(self, modules: Mapping[str, nn.Module], call: ModelCall, forward: Forward, strength: float) -> Tensor:
        """See `InferenceEdit`. A call in which every gate is closed is the frozen network's, bit for bit; so is one without
        a prompt, which says nothing of a concept."""
        if call.tokens is None:
            return forward(None)
        with ExitStack() as stack:
            for gate, adapters in zip(self._gates, self._adapters, strict=True):
                scale = strength * gate(call.tokens)
                if bool(scale.any()):
                    stack.enter_context(changed(low_rank_changes(modules, adapters, scale)))
            return forward(call.tokens)
