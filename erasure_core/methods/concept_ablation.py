"""Concept Ablation, arXiv 2303.13516: let the target's prediction be the anchor's, on the anchor's own noisy pictures.

||eps_edit(z_a, c_target) - eps(z_a, c_anchor)||^2 (the model-based objective of section 3.2), z_a on the way to a picture
of the anchor. With an empty anchor, the anchor is what the sentence says without the target.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..denoiser import Conditioning
from ..method import setting
from ..text.prompt_templates import draw_templates
from ..text.synonyms import template_words_like
from ..training.settings import retaining, step_size
from ..training.trained import TrainedMethod, Training
from ..training.trajectory import NoisyBatch


@dataclass(frozen=True)
class AnchorPictures:
    """Noisy samples of the anchor in its sentences, and for each the sentence with the target in the anchor's place."""

    samples: NoisyBatch
    target: Conditioning


@dataclass(frozen=True, kw_only=True)
class ConceptAblation(TrainedMethod):
    """Teach the target's words to mean the anchor, on noisy pictures of the anchor."""

    name = "concept_ablation"
    title = "Concept Ablation: distil the anchor"
    paper = "arXiv 2303.13516"
    draws_targets = False

    learning_rate: float = step_size(3e-3)
    teacher: str = setting(
        "frozen",
        "Whose prediction for the anchor is copied: the frozen model's, or that of the edited model as it is now, as the "
        "paper writes it, which follows the anchor where the edit moves it.",
        choices=("frozen", "live"),
        advanced=True,
    )
    anchor_weight: float = setting(
        1.0,
        "Weight of leaving the anchor's own predictions where they were; 0 leaves that term out.",
        minimum=0.0,
        maximum=100.0,
        step=0.1,
        advanced=True,
    )
    retain_weight: float = retaining()

    def prepare(self, run: Training) -> dict[str, AnchorPictures]:
        """Draw the anchors' trajectories, by target: each run in another sentence."""
        return {pair.target: self._pictures(run, pair.target, pair.anchor) for pair in run.request.pairs}

    def _pictures(self, run: Training, target: str, anchor: str) -> AnchorPictures:
        avoid = template_words_like(run.denoiser, run.request.targets)
        templates = draw_templates(target, self.trajectories, run.generator, avoid)
        with run.deltas.disabled():
            samples = self.sample(run, [template.with_concept(anchor) for template in templates])
        text = run.denoiser.encode([template.with_concept(target) for template in templates])
        return AnchorPictures(samples, Conditioning.cat([text] * (len(samples.sigma) // len(text))))

    def losses(self, run: Training, state: dict[str, AnchorPictures]) -> dict[str, Tensor]:
        """`erase`, `anchor` unless its weight is 0, and `retain` if the user named something to retain."""
        pictures = state[run.in_turn(run.request.targets)]
        rows = torch.randint(len(pictures.samples.sigma), (self.batch,), generator=run.generator)
        anchor = pictures.samples.rows(rows.to(pictures.samples.sigma.device))
        target = replace(anchor, conditioning=pictures.target.rows(rows.to(pictures.target.tokens.device)))
        if self.anchor_weight or self.teacher == "live":
            predicted, predicted_anchor = run.predict(target, anchor)
        else:
            (predicted,) = run.predict(target)
        # sg(eps_edit(z_a, c_anchor)) as section 3.2 writes it, or the frozen model's prediction
        desired = predicted_anchor.detach() if self.teacher == "live" else anchor.conditional
        terms = {"erase": run.error(predicted, desired, target.sigma)}
        if self.anchor_weight:
            moved = run.error(predicted_anchor, anchor.conditional, anchor.sigma)
            terms["anchor"] = self.anchor_weight * moved
        return terms | run.retain_loss(self.retain_weight, self.batch, self.trajectories)
