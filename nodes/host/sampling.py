"""A MODEL as an `ImageSampler`: drawn by ComfyUI's own sampler, as KSampler and VAE Decode do it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import torch
from torch import Tensor

from ...erasure_core.evaluation.sampler import Samples, Sampling
from ...erasure_core.report import Check, unwatched
from .linked import check_linked, check_size, check_vae
from .shapes import latent_shape, pictures_of

SAMPLERS = tuple(comfy.samplers.KSampler.SAMPLERS)
SCHEDULERS = tuple(comfy.samplers.KSampler.SCHEDULERS)

Encoded = tuple[Tensor, dict[str, Any]]


class ComfyImageSampler:
    """Draws with one MODEL. Samplers of several clones may share `encoded`, the text states of each prompt.

    Raises ValueError if MODEL, CLIP or VAE is empty, or the VAE or the size does not fit the latents.
    """

    def __init__(
        self,
        model: Any,
        clip: Any,
        vae: Any,
        sampling: Sampling,
        encoded: dict[str, Encoded] | None = None,
        check: Check = unwatched,
    ) -> None:
        check_linked(model, clip)
        if vae is None:
            raise ValueError("the linked VAE is empty: this checkpoint has no autoencoder; load one with Load VAE")
        check_vae(model, vae)
        check_size(model, sampling.width, sampling.height)
        self.model, self._clip, self._vae, self.sampling = model, clip, vae, sampling
        self._encoded = {} if encoded is None else encoded
        self._check = check

    def sized(self, width: int, height: int) -> ComfyImageSampler:
        """See `ImageSampler.sized`."""
        sampling = replace(self.sampling, width=width, height=height)
        return ComfyImageSampler(self.model, self._clip, self._vae, sampling, self._encoded, self._check)

    def encode(self, prompt: str) -> Encoded:
        """Text states (1, tokens, width) and what else the text encoder gives; each prompt is encoded once."""
        if prompt not in self._encoded:
            self._check()
            tokens = self._clip.tokenize(prompt)
            states, others = self._clip.encode_from_tokens_scheduled(tokens, show_pbar=False)[0]
            self._encoded[prompt] = states, others
            self._check(text=1)
        return self._encoded[prompt]

    def noise(self, seeds: Sequence[int]) -> Tensor:
        """Noise (n, channels, ...) of unit variance: for each seed what KSampler draws for it, alone in its batch."""
        shape = latent_shape(self.model, self.sampling.width, self.sampling.height)
        return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])

    @torch.inference_mode()
    def draw(self, prompts: Sequence[str], seeds: Sequence[int], guidance_scale: float | None = None) -> Samples:
        """See `ImageSampler.draw`."""
        texts = [self.encode(prompt) for prompt in prompts]
        return self.finish(texts, self.noise(seeds), guidance_scale, seed=seeds[0])

    @torch.inference_mode()
    def finish(
        self, texts: Sequence[Encoded], noise: Tensor, guidance_scale: float | None = None, **options: Any
    ) -> Samples:
        """Draw and decode; see `sample` for the options."""
        latents = self.sample(texts, noise, guidance_scale, **options)
        return Samples(self.model.get_model_object("latent_format").process_in(latents), self.decode(latents))

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents as KSampler gives them -> images (n, height, width, 3) in [0, 1]."""
        parts = latents.split(self.sampling.batch_size)
        return torch.cat([pictures_of(self._vae, part).float()[..., :3].clamp(0, 1).cpu() for part in parts])

    @torch.inference_mode()
    def sample(
        self,
        texts: Sequence[Encoded],
        noise: Tensor,
        guidance_scale: float | None = None,
        *,
        seed: int = 0,
        start: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        """Latents as KSampler gives them, from this noise and, if given, from latents in model space `start`; `options` are
        those of `comfy.sample.sample` (denoise, start_step, last_step, force_full_denoise, noise_mask)."""
        latent_format = self.model.get_model_object("latent_format")
        # KSampler takes and gives latents as the VAE has them, not as the model does
        origin = torch.zeros_like(noise) if start is None else latent_format.process_out(start)
        parts, places = [], []
        for rows in alike(texts, self.sampling.batch_size):
            self._check()
            latents = comfy.sample.sample(
                self.model, noise[rows], self.sampling.steps,
                self.sampling.cfg if guidance_scale is None else guidance_scale,
                self.sampling.sampler_name, self.sampling.scheduler,
                [joined([texts[row] for row in rows])], [list(self.encode(""))], origin[rows],
                callback=partial(self._stepped, len(rows)), disable_pbar=True, seed=seed, **options,
            )  # fmt: skip
            parts.append(latents.float().cpu())
            places += rows
        return torch.cat(parts)[torch.tensor(places).argsort()]

    def _stepped(self, pictures: int, *_step: Any) -> None:
        """After each sampling step of some pictures."""
        self._check(evaluations=pictures)


def alike(texts: Sequence[Encoded], at_most: int) -> list[list[int]]:
    """The places of texts that a model can be given in one call, at most so many at once.

    Texts of one shape are rows of a batch. To repeat the shorter ones to the length of all is right for plain
    cross-attention alone; in every other family ComfyUI calls them one after the other. Where what is beside a text is no
    row of a batch (Anima's token ids), only equal texts go together.
    """
    groups: dict[Any, list[int]] = {}
    for place, (states, others) in enumerate(texts):
        rows = all(len(value) == len(states) for value in others.values() if torch.is_tensor(value))
        kind = tuple(
            (name, tuple(value.shape) if torch.is_tensor(value) else repr(value)) for name, value in others.items()
        )
        groups.setdefault((tuple(states.shape), kind) if rows else id(states), []).append(place)
    return [group[at : at + at_most] for group in groups.values() for at in range(0, len(group), at_most)]


def joined(texts: Sequence[Encoded]) -> list[Any]:
    """One conditioning for a batch of texts that are `alike`; the host repeats a single one for all pictures."""
    if all(states is texts[0][0] for states, _ in texts):
        return list(texts[0])
    others = {
        name: torch.cat([other[name] for _, other in texts]) if torch.is_tensor(value) else value
        for name, value in texts[0][1].items()
    }
    return [torch.cat([states for states, _ in texts]), others]


def use(model: Any) -> None:
    """Put a MODEL's own weights into the network that its clones share, as drawing with it would."""
    comfy.model_management.load_models_gpu([model])
