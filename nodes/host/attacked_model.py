"""Two MODELs under attack as an `erasure_core.red_team.attacked_model.AttackedModel`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...erasure_core.erased_unet import ErasedUNet
from ...erasure_core.evaluation.sampler import Samples
from ...erasure_core.red_team.attacked_model import BASE, ERASED, SoftPrompt, Text
from ...erasure_core.report import Check, unwatched
from .linked import LinkedModels
from .patching import patched
from .sampling import ComfyImageSampler, Encoded
from .session import open_session_as
from .soft_prompts import SoftComfyDenoiser, encoders, soft_tokens


class ComfyAttackedModel:
    """See `AttackedModel`.

    Raises ValueError if there is no judge or it has no label for the concept, CLIP or VAE is empty, or the size does not
    fit the latents.
    """

    def __init__(
        self,
        linked: LinkedModels,
        concept: str,
        templates: Sequence[str],
        synonyms: Sequence[str] = (),
        check: Check = unwatched,
    ) -> None:
        factor = linked.judge.factor_of(concept) if linked.judge else None
        if linked.judge is None or factor is None:
            raise ValueError(f"no judge with a label for {concept!r} is linked; link one from Load Concept Judge")
        self.concept, self.templates, self.synonyms = concept, tuple(templates), tuple(synonyms)
        self.steps, self.calls = linked.sampling.steps, 0
        self.linked, self.judge, self._factor = linked, linked.judge, factor
        self._models = {BASE: linked.model, ERASED: linked.erased_model}
        same = {word.casefold() for word in self.synonyms}
        self.others = tuple(word for word in factor.others(concept) if word.casefold() not in same)
        encoded: dict[str, Encoded] = {}
        self._sampler_of = partial(
            ComfyImageSampler, clip=linked.clip, vae=linked.vae, sampling=linked.sampling, encoded=encoded, check=check
        )
        self._samplers = {who: self._sampler_of(model) for who, model in self._models.items()}
        self._conditioning: dict[str, dict[str, Tensor]] = {}

    def _texts(self, texts: Sequence[Text]) -> list[Encoded]:
        soft: dict[tuple[str, int], Encoded] = {}
        found = []
        for text in texts:
            if not isinstance(text, SoftPrompt):
                found.append(self._samplers[BASE].encode(text))
                continue
            key = (text.template, id(text.vectors))
            if key not in soft:
                tokens = soft_tokens(self.linked.clip, text)
                soft[key] = tuple(self.linked.clip.encode_from_tokens_scheduled(tokens, show_pbar=False)[0])
            found.append(soft[key])
        return found

    def count(self, evaluations: int) -> None:
        """See `AttackedModel.count`."""
        self.calls += evaluations

    def _count(self, pictures: int) -> None:
        self.calls += pictures * self.steps * (1 if self.linked.sampling.cfg == 1 else 2)

    @torch.inference_mode()
    def draw(self, who: str, texts: Sequence[Text], seeds: Sequence[int], noise_scale: float = 1.0) -> Samples:
        """See `AttackedModel.draw`."""
        self._count(len(texts))
        sampler = self._samplers[who]
        return sampler.finish(self._texts(texts), noise_scale * sampler.noise(seeds), seed=seeds[0])

    @torch.inference_mode()
    def complete(self, first: Sequence[Text], then: Sequence[Text], seeds: Sequence[int], base_steps: int) -> Samples:
        """See `AttackedModel.complete`."""
        self._count(len(first))
        base, erased = self._samplers[BASE], self._samplers[ERASED]
        noise = base.noise(seeds)
        half = base.sample(self._texts(first), noise, seed=seeds[0], last_step=base_steps, force_full_denoise=False)
        half = base.model.get_model_object("latent_format").process_in(half)  # back from the VAE's space
        nothing = torch.zeros_like(noise)  # what is half drawn has its noise already
        return erased.finish(self._texts(then), nothing, seed=seeds[0], start=half, start_step=base_steps)

    @torch.inference_mode()
    def repaint(
        self, texts: Sequence[Text], seeds: Sequence[int], latents: Tensor, strength: float, mask: Tensor | None = None
    ) -> Samples:
        """See `AttackedModel.repaint`."""
        self._count(len(texts))
        sampler = self._samplers[ERASED]
        options: dict[str, Any] = {} if mask is None else {"noise_mask": mask[None]}
        noise = sampler.noise(seeds)
        return sampler.finish(self._texts(texts), noise, seed=seeds[0], start=latents, denoise=strength, **options)

    @torch.inference_mode()
    def pictures(self, latents: Tensor) -> Tensor:
        """See `AttackedModel.pictures`."""
        sampler = self._samplers[ERASED]
        return sampler.decode(sampler.model.get_model_object("latent_format").process_out(latents))

    def lacks(self, need: str) -> str | None:
        """See `AttackedModel.lacks`."""
        if need != "word_vectors":
            with self.open_session(ERASED) as denoiser:
                return denoiser.lacks(need)
        try:
            encoders(self.linked.clip)
        except ValueError as error:
            return str(error)
        return None

    def open_session(self, who: str) -> AbstractContextManager[SoftComfyDenoiser]:
        """See `AttackedModel.open_session`."""
        size = (self.linked.sampling.width, self.linked.sampling.height)
        return open_session_as(SoftComfyDenoiser, self._models[who], self.linked.clip, *size, self._conditioning)

    @contextmanager
    def edited(self, edit: ErasedUNet) -> Iterator[None]:
        """See `AttackedModel.edited`; on a clone, so that the MODEL stays as it was."""
        model, sampler = self._models[ERASED], self._samplers[ERASED]
        changed = model if edit.is_zero() else patched(model, edit, 1.0)
        self._models[ERASED], self._samplers[ERASED] = changed, self._sampler_of(changed)
        try:
            yield
        finally:
            self._models[ERASED], self._samplers[ERASED] = model, sampler

    def confidence(self, pictures: Tensor) -> Tensor:
        """See `AttackedModel.confidence`."""
        return self.judge.confidence(pictures, self.concept)

    def hits(self, pictures: Tensor) -> list[bool]:
        """See `AttackedModel.hits`."""
        label = self._factor.label_of(self.concept)
        return [verdict[self._factor.name][0] == label for verdict in self.judge.seen(pictures, k=1)]
