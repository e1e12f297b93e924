"""Two MODELs under attack as an `erasure_core.red_team.attacked_model.AttackedModel`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...erasure_core.erased_unet import ErasedUNet
from ...erasure_core.evaluation.judges.judge import ConceptJudge
from ...erasure_core.evaluation.sampler import Samples, Sampling
from ...erasure_core.red_team.attacked_model import BASE, ERASED, SoftPrompt, Text
from ...erasure_core.report import Check, unwatched
from .patching import patched
from .sampling import ComfyImageSampler, Encoded
from .session import open_session
from .soft_prompts import SoftComfyDenoiser, encoders, soft_tokens


class ComfyAttackedModel:
    """See `AttackedModel`. `judge` must have a label for the concept.

    Raises ValueError if MODEL, CLIP or VAE is empty, or the size does not fit the latents.
    """

    def __init__(
        self,
        model: Any,
        erased_model: Any,
        clip: Any,
        vae: Any,
        judge: ConceptJudge,
        concept: str,
        templates: Sequence[str],
        sampling: Sampling,
        synonyms: Sequence[str] = (),
        check: Check = unwatched,
    ) -> None:
        self.concept, self.templates, self.synonyms = concept, tuple(templates), tuple(synonyms)
        self.steps, self.calls = sampling.steps, 0
        self._models, self._clip, self._judge, self._sampling = (
            {BASE: model, ERASED: erased_model},
            clip,
            judge,
            sampling,
        )
        same = {word.casefold() for word in self.synonyms}
        self.others = tuple(word for word in judge.factor_of(concept).others(concept) if word.casefold() not in same)
        encoded: dict[str, Encoded] = {}
        self._painter = partial(ComfyImageSampler, clip=clip, vae=vae, sampling=sampling, encoded=encoded, check=check)
        self._painters = {who: self._painter(one) for who, one in self._models.items()}
        self._conditioning: dict[str, dict[str, Tensor]] = {}

    def _texts(self, texts: Sequence[Text]) -> list[Encoded]:
        soft: dict[tuple[str, int], Encoded] = {}
        found = []
        for text in texts:
            if not isinstance(text, SoftPrompt):
                found.append(self._painters[BASE].encode(text))
                continue
            key = (text.template, id(text.vectors))
            if key not in soft:
                tokens = soft_tokens(self._clip, text)
                soft[key] = tuple(self._clip.encode_from_tokens_scheduled(tokens, show_pbar=False)[0])
            found.append(soft[key])
        return found

    def count(self, evaluations: int) -> None:
        """See `AttackedModel.count`."""
        self.calls += evaluations

    def _count(self, pictures: int) -> None:
        self.calls += pictures * self.steps * (1 if self._sampling.cfg == 1 else 2)

    @torch.inference_mode()
    def draw(self, who: str, texts: Sequence[Text], seeds: Sequence[int], noise_scale: float = 1.0) -> Samples:
        """See `AttackedModel.draw`."""
        self._count(len(texts))
        painter = self._painters[who]
        return painter.finish(self._texts(texts), noise_scale * painter.noise(seeds), seed=seeds[0])

    @torch.inference_mode()
    def complete(self, first: Sequence[Text], then: Sequence[Text], seeds: Sequence[int], base_steps: int) -> Samples:
        """See `AttackedModel.complete`."""
        self._count(len(first))
        base, erased = self._painters[BASE], self._painters[ERASED]
        noise = base.noise(seeds)
        half = base.sample(self._texts(first), noise, seed=seeds[0], last_step=base_steps, force_full_denoise=False)
        half = base.model.get_model_object("latent_format").process_in(half)
        nothing = torch.zeros_like(noise)  # what is half drawn has its noise already
        return erased.finish(self._texts(then), nothing, seed=seeds[0], start=half, start_step=base_steps)

    @torch.inference_mode()
    def repaint(
        self, texts: Sequence[Text], seeds: Sequence[int], latents: Tensor, strength: float, mask: Tensor | None = None
    ) -> Samples:
        """See `AttackedModel.repaint`."""
        self._count(len(texts))
        painter = self._painters[ERASED]
        options = {} if mask is None else {"noise_mask": mask[None]}
        noise = painter.noise(seeds)
        return painter.finish(self._texts(texts), noise, seed=seeds[0], start=latents, denoise=strength, **options)

    @torch.inference_mode()
    def pictures(self, latents: Tensor) -> Tensor:
        """See `AttackedModel.pictures`."""
        painter = self._painters[ERASED]
        return painter.decode(painter.model.get_model_object("latent_format").process_out(latents))

    def lacks(self, need: str) -> str | None:
        """See `AttackedModel.lacks`."""
        if need != "word_vectors":
            with self.open_session(ERASED) as denoiser:
                return denoiser.lacks(need)
        try:
            encoders(self._clip)
        except ValueError as error:
            return str(error)
        return None

    def open_session(self, who: str) -> AbstractContextManager[SoftComfyDenoiser]:
        """See `AttackedModel.opened`."""
        size = (self._sampling.width, self._sampling.height)
        return open_session(self._models[who], self._clip, *size, self._conditioning, SoftComfyDenoiser)

    @contextmanager
    def edited(self, edit: ErasedUNet) -> Iterator[None]:
        """See `AttackedModel.edited`; on a clone, so that the MODEL stays as it was."""
        model, painter = self._models[ERASED], self._painters[ERASED]
        changed = model if edit.is_zero() else patched(model, edit, 1.0)
        self._models[ERASED], self._painters[ERASED] = changed, self._painter(changed)
        try:
            yield
        finally:
            self._models[ERASED], self._painters[ERASED] = model, painter

    def confidence(self, pictures: Tensor) -> Tensor:
        """See `AttackedModel.confidence`."""
        return self._judge.confidence(pictures, self.concept)

    def hits(self, pictures: Tensor) -> list[bool]:
        """See `AttackedModel.hits`."""
        factor = self._judge.factor_of(self.concept)
        label = factor.label_of(self.concept)
        return [verdict[factor.name][0] == label for verdict in self._judge.seen(pictures, k=1)]
