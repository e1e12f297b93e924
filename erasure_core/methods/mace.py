"""Mass Concept Erasure (MACE), arXiv 2403.06135, from its equations: many concepts, each with an edit of its own, in one.

1. The words beside the target carry it along, so their keys and values are mapped to those that they have in the anchor's
   sentence, in closed form; other text is kept.
2. For each target, low-rank deltas are trained so that the pixels that show it no longer attend to its tokens:
   sum over attentions of ||A_target * mask||^2, A the attention probabilities, the mask from the frozen model's own maps.
3. One edit agrees with all of them on their own sentences and with stage 1 on everything kept:
   min over W* of sum_i ||W* C_i - (W + dW_i) C_i||^2 + p ||W* R - W R||^2 + ridge ||W* - W||^2, W the weights of stage 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..closed_form.ridge import TextEdit, factors, normal_matrix, normal_solution
from ..closed_form.text_method import TextRowsMethod
from ..closed_form.text_rows import TOKENS, erased_rows
from ..concepts import ErasureRequest
from ..denoiser import Denoiser
from ..erased_unet import ErasedUNet, weight_edit
from ..hooks.attention import attention_maps
from ..inference import changed
from ..layers import weight_of
from ..memory.planning import Plan
from ..method import check_prompts, provenance, setting
from ..report import Report, part_of
from ..training.deltas import Deltas
from ..training.run import optimise
from ..training.settings import block_checkpointing, step_size
from ..training.trained import GradientMethod, Training
from ..training.trajectory import NoisyBatch


@dataclass(frozen=True)
class TargetSentence:
    """One sentence about the target: the rows of its noisy samples in the pool, one a noise level, where it says the target,
    and `seen_masks`."""

    rows: Tensor
    tokens: list[int]
    masks: dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class MassConceptErasure(TextRowsMethod, GradientMethod):
    """Words beside the target cleaned in closed form, the target's own tokens by short training, all fused into one."""

    name = "mace"
    title = "MACE: many concepts, one edit each, fused"
    paper = "arXiv 2403.06135"
    needs = ("gradients", "text_states", "attention_maps")
    in_micro_batches = False

    tokens: str = setting(
        "all",
        "Which text states stage 1 edits. " + "; ".join(f"{k}: {v}" for k, v in TOKENS.items()) + ".",
        choices=tuple(TOKENS),
    )
    steps: int = setting(30, "Optimiser steps for each concept.", minimum=1, maximum=10000)
    learning_rate: float = step_size()
    delta_rank: int = setting(1, "Rank of each concept's trained deltas.", minimum=1, maximum=64)
    batch: int = setting(4, "Noisy samples of the target in an optimiser step.", minimum=1, maximum=64, advanced=True)
    guidance_scale: float = setting(
        3.0, "Guidance scale of the frozen model's sampling runs.", minimum=1.0, maximum=20.0, step=0.5, advanced=True
    )
    sampling_steps: int = setting(16, "Sampling steps of those runs.", minimum=2, maximum=200, advanced=True)
    trajectories: int = setting(
        8, "Sampling runs for each target, each in another sentence.", minimum=1, maximum=256, advanced=True
    )
    mask_share: float = setting(
        0.3,
        "Share of the picture in which the target's tokens lose attention: the pixels that attend most to them.",
        minimum=0.01,
        maximum=1.0,
        step=0.05,
        advanced=True,
    )
    checkpointing: str = block_checkpointing()

    def samples_in_a_step(self, request: ErasureRequest) -> int:
        """See `GradientMethod`; nothing is preserved by training."""
        return self.batch

    def samples_kept(self, request: ErasureRequest) -> int:
        """See `GradientMethod`; of one target."""
        return self.trajectories * self.sampling_steps

    def erase(self, denoiser: Denoiser, request: ErasureRequest, report: Report) -> ErasedUNet:
        """See `ErasureMethod.erase`; the result is weights only."""
        check_prompts(denoiser, request)
        layers = denoiser.layers(self.group)
        with torch.no_grad():
            rows, retained = self.rows(denoiser, request, report)
            cleaned = self.exact(rows.states, rows.desired, retained)
            cleaned = self.limited(cleaned, rows.states, retained, len(request.pairs))
        plan, trained = None, []
        for number, pair in enumerate(request.pairs):
            generator = torch.Generator().manual_seed(self.seed + number)
            deltas = Deltas(layers, self.delta_rank, generator)
            progress = part_of(report, number * self.steps, len(request.pairs) * self.steps)
            run = self.assemble(denoiser, request, deltas, generator, progress, avoid=())
            plan = plan or self.plan(run, request)
            self._train(run, plan, pair.target, cleaned)
            trained.append(deltas.export())
        with torch.no_grad():
            concepts = erased_rows(
                denoiser, request, sentences=self.sentences, tokens="all", eta=0.0, seed=self.seed, check=report.check
            )
            states = [rows.states for rows in concepts]
            normal = normal_matrix(torch.cat(states), retained, self.erase_weight, self.retain_weight, self.ridge)
            fused = fuse(layers, cleaned, trained, states, self.erase_weight, normal)
        erased = ErasedUNet(weight_edit(fused), provenance(self, denoiser, request))
        if erased.is_zero():
            raise ValueError("the erasure changed nothing: raise learning_rate or steps, or lower ridge")
        return erased

    def _train(self, run: Training, plan: Plan, target: str, cleaned: TextEdit) -> None:
        """Stage 2 for one target: its deltas act on what `cleaned` makes of the text."""
        with self.learning(run, plan):
            run.pool.fill([target], self.trajectories)
            sentences = self._sentences(run, target)
            inputs = {layer: reading(cleaned) for layer in run.denoiser.layers(self.group).values()}
            with changed(inputs=inputs), run.deltas.attached():
                optimise(run, self.steps, self.learning_rate, lambda: self._losses(run, target, sentences))

    def _losses(self, run: Training, target: str, sentences: Sequence[TargetSentence]) -> dict[str, Tensor]:
        sentence = run.pick(sentences)
        levels = torch.randint(len(sentence.rows), (self.batch,), generator=run.generator)
        samples = run.pool.samples_at(target, sentence.rows[levels])
        run.report.costs["UNet_evaluations_with_gradient"] += self.batch
        return {"attention": masked_attention(run.denoiser, samples, sentence.tokens, sentence.masks)}

    def _sentences(self, run: Training, target: str) -> list[TargetSentence]:
        """The target's sentences, with the masks from the frozen model's attention."""
        templates, count = run.pool.templates(target), len(run.pool.samples(target).sigma)
        sentences = []
        for place, template in enumerate(templates):
            run.report.check()
            rows = torch.arange(place, count, len(templates))  # the noise level is outermost
            tokens = run.denoiser.positions(template.with_concept(target), target)
            masks = seen_masks(run.denoiser, run.pool.samples_at(target, rows), tokens, self.mask_share)
            run.pool.count(count // len(templates))
            sentences.append(TargetSentence(rows, tokens, masks))
        return sentences


@torch.no_grad()
def seen_masks(denoiser: Denoiser, samples: NoisyBatch, tokens: Sequence[int], share: float) -> dict[str, Tensor]:
    """For each attention a mask (pixels,) of ones and zeros: the given share of the pixels that attend most to these tokens,
    in the mean over the samples of one sentence and over the heads."""
    with attention_maps(denoiser) as maps:
        denoiser.predict(samples.latents, samples.sigma, samples.conditioning)
        seen = {name: map_[..., list(tokens)].sum(-1).mean((0, 1)) for name, map_ in maps().items()}
    masks = {}
    for name, attention in seen.items():
        masks[name] = torch.zeros_like(attention)
        masks[name][attention.topk(max(1, round(share * len(attention)))).indices] = 1.0
    return masks


def masked_attention(
    denoiser: Denoiser, samples: NoisyBatch, tokens: Sequence[int], masks: Mapping[str, Tensor]
) -> Tensor:
    """Stage 2's loss, a scalar with gradient: squared attention to these tokens inside the masks, meaned over pixels of
    the mask, heads and samples, summed over attentions."""
    with attention_maps(denoiser) as maps:
        denoiser.predict(samples.latents, samples.sigma, samples.conditioning)
        attention = {name: map_[..., list(tokens)].sum(-1) for name, map_ in maps().items()}
    return sum((attention[name][..., mask > 0].square().mean() for name, mask in masks.items()), start=torch.zeros(()))


def reading(edit: TextEdit) -> Callable[[tuple], tuple]:
    """A layer's inputs under a text edit, for `inference.changed`."""

    def change(given: tuple) -> tuple:
        states = given[0]
        return (TextEdit(edit.down.to(states), edit.shift.to(states)).read(states), *given[1:])

    return change


def fuse(
    layers: Mapping[str, nn.Module],
    cleaned: TextEdit,
    trained: Sequence[Mapping[str, Tensor]],
    states: Sequence[Tensor],
    erase_weight: float,
    normal: Tensor,
) -> dict[str, Tensor]:
    """Stage 3: one low-rank edit of every layer. `trained` holds the deltas up_i down_i of concept i, which act on what
    `cleaned` makes of the text; `states` the rows C_i (n_i, width) of its sentences; `normal` the matrix M over all rows.

    W* = W (I + D) + sum_i up_i (down_i read(C_i)^T) e C_i M^-1.
    """
    projected = [(cleaned.read(rows), normal_solution(normal, erase_weight * rows.T).T) for rows in states]
    # stage 1 is the first factor, W D; each concept adds one of its own rank
    fused: dict[str, Tensor] = {}
    for name, layer in layers.items():
        weight = weight_of(layer)
        ups, downs = [weight @ cleaned.shift.T.to(weight)], [cleaned.down]
        for deltas, (read, solved) in zip(trained, projected, strict=True):
            ups.append(deltas[f"{name}.lora_up.weight"].to(weight))
            downs.append((deltas[f"{name}.lora_down.weight"].cpu().double() @ read.T) @ solved)
        fused |= factors(name, torch.cat(ups, 1), torch.cat(downs))
    return fused
