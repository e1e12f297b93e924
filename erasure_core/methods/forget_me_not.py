"""Forget-Me-Not, arXiv 2303.17591: attention re-steering, so that no pixel attends to the concept's tokens any more.

min || A[:, tokens of the concept] ||_2, a norm and not its square, over the cross-attention probabilities A of all layers,
heads and pixels; here divided by the root of their number, so that it does not grow with the picture. It is taken on noised
pictures of the concept if the user links some, else on the frozen model's own way to them. Holding the predictions
for other words is an addition.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..concepts import ErasureRequest
from ..denoiser import Denoiser
from ..hooks.attention import attention_maps
from ..method import setting
from ..text.candidates import candidates_of
from ..text.synonyms import synonym_limit
from ..text.vocabulary import word_list
from ..training.clean_latents import CleanLatents, linked_pictures, noised, shown
from ..training.settings import noise_level_weighting, retaining
from ..training.trained import TrainedMethod, Training
from ..training.trajectory import NoisyBatch


def token_mask(denoiser: Denoiser, sentence: str, concept: str, with_end: bool) -> Tensor:
    """(tokens,): 1 where the sentence's tokens say the concept, and with `with_end` also at its end and padding, which
    sum the sentence up; else 0."""
    mask = torch.zeros(denoiser.encode([sentence]).tokens.shape[1])
    mask[denoiser.positions(sentence, concept)] = 1.0
    if with_end:
        mask[max(denoiser.positions(sentence)) + 1 :] = 1.0
    return mask


def attention_norm(maps: Mapping[str, Tensor], mask: Tensor) -> Tensor:
    """|| A[:, tokens] ||_2 / sqrt(layers x heads x pixels x samples), for maps (n, heads, pixels, tokens) and a mask
    (n, tokens)."""
    squares, rows = [], 0
    for attention in maps.values():
        squares.append((attention * mask[:, None, None, :]).square().sum())
        rows += attention[..., 0].numel()
    return (torch.stack(squares).sum() / rows).clamp_min(1e-12).sqrt()


@dataclass(frozen=True)
class AttentionTargets:
    """For each target its mask (sentences, tokens), and the words that are held."""

    masks: dict[str, Tensor]
    words: list[str]
    pictures: CleanLatents | None


@dataclass(frozen=True, kw_only=True)
class ForgetMeNot(TrainedMethod):
    """Turn the picture's attention away from the concept's words."""

    name = "forget_me_not"
    title = "Forget-Me-Not: attention re-steering"
    paper = "arXiv 2303.17591"
    needs = ("gradients", "attention_maps")
    uses_anchor: ClassVar[bool] = False
    in_micro_batches: ClassVar[bool] = False

    tokens: str = setting(
        "with_end",
        "Which tokens lose attention: the concept's own, or with the sentence's end and padding, which sum it up.",
        choices=("concept", "with_end"),
    )
    retain_weight: float = retaining(
        1.0, "Weight of holding the predictions for other words, the retain lines first. 0 is the paper's method."
    )
    vocabulary: str = word_list("Where the words that are held come from, besides the retain lines.")
    candidates: int = setting(24, "How many words are held: those nearest to a target.", minimum=2, maximum=3000)
    synonym_similarity: float = synonym_limit()
    retain_trajectories: int = setting(
        2, "Sampling runs for each word that is held.", minimum=1, maximum=64, advanced=True
    )
    loss_weighting: str = noise_level_weighting("eps")

    def samples_kept(self, request: ErasureRequest) -> int:
        """See `TrainedMethod`; with the words that are held."""
        return super().samples_kept(request) + self.candidates * self.retain_trajectories * self.sampling_steps

    def prepare(self, run: Training) -> AttentionTargets:
        """Where each sentence says its target, and which words are held."""
        linked = linked_pictures(run.request, run.denoiser.device)
        masks, words, sentences = {}, [], []
        for target in run.request.targets:
            sentences = [template.with_concept(target) for template in run.pool.templates(target)]
            rows = [token_mask(run.denoiser, text, target, self.tokens == "with_end") for text in sentences]
            # Conditioning repeats tokens where sentences differ in length, and so must their masks
            length = run.pool.samples(target).conditioning.tokens.shape[1]
            masks[target] = torch.stack([row.repeat(length // len(row)) for row in rows]).to(run.denoiser.device)
        if self.retain_weight:
            choice = (self.vocabulary, self.candidates, self.synonym_similarity)
            words = list(candidates_of(run.denoiser, run.request, run.report, *choice).words)
        pictures = None
        if linked is not None:  # then there is one target, and these are its sentences
            pictures = shown(linked, run.denoiser.encode(sentences))
        return AttentionTargets(masks, words, pictures)

    def _samples(self, run: Training, state: AttentionTargets, target: str) -> tuple[NoisyBatch, Tensor]:
        """Noisy samples of the target, and the mask of each."""
        mask = state.masks[target]
        if state.pictures is None:
            samples, rows = run.pool.draw(target, self.batch)
            return samples, mask[rows % len(mask)]
        rows = torch.randint(len(state.pictures.latents), (self.batch,), generator=run.generator).to(mask.device)
        chosen = CleanLatents(state.pictures.latents[rows], state.pictures.conditioning.rows(rows))
        return noised(run.denoiser, chosen, self.sampling_steps, run.generator), mask[rows % len(mask)]

    def losses(self, run: Training, state: AttentionTargets) -> dict[str, Tensor]:
        """`attention` for one target, and `retain` for other words, if they are held."""
        target = run.in_turn(run.request.targets)
        samples, mask = self._samples(run, state, target)
        batches = [samples]
        if self.retain_weight:
            named = run.request.retain
            words = [run.pick(named if named and i % 2 else state.words) for i in range(self.batch)]
            batches.append(run.retained(words, self.retain_trajectories))
        with attention_maps(run.denoiser) as maps:
            predicted = run.predict(*batches)
            target_maps = {name: attention[: self.batch] for name, attention in maps().items()}
        # as in `prepare`: in a batch with longer sentences the tokens are repeated, and so must the mask be
        length = next(iter(target_maps.values())).shape[-1]
        terms = {"attention": attention_norm(target_maps, mask.repeat(1, length // mask.shape[1]))}
        if self.retain_weight:
            held = batches[1]
            retain = run.error(predicted[1], held.conditional, held.sigma)
            terms["retain"] = self.retain_weight * retain
        return terms
