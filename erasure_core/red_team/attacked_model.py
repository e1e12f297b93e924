"""The seam of the attacks: two models with one text encoder, a sampler, and a judge of the concept."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ..denoiser import Conditioning, Denoiser
from ..erased_unet import ErasedUNet
from ..evaluation.prompts import GAP
from ..evaluation.sampler import Samples
from ..families import NEEDS as FAMILY_NEEDS

BASE, ERASED = "base", "erased"
NEEDS = {"gradients": FAMILY_NEEDS["gradients"], "word_vectors": "vectors in place of words"}
"""The needs that an attack may have of the models (`attack.Attack.needs`)."""


class DoesNotFit(ValueError):
    """An attack cannot be made on this model, with this concept or this judge; the message says why and what to do. A list
    of attacks goes on without it."""


@dataclass(frozen=True)
class SoftPrompt:
    """A prompt whose gap `{}` is filled by token vectors (k, width) that no word needs to have. In a model with several text
    encoders a word's vector is those of its token in each, one behind the other."""

    template: str
    vectors: Tensor


Text = str | SoftPrompt


class SoftDenoiser(Denoiser, Protocol):
    """A denoiser that also encodes vectors in place of words."""

    def encode_soft(self, prompt: SoftPrompt) -> Conditioning:
        """The conditioning (1) of a soft prompt; gradients reach its vectors.

        Raises DoesNotFit for a model whose text encoders do not share their words.
        """
        ...

    def word_vectors(self) -> tuple[list[str], Tensor]:
        """The whole words of the text encoders' vocabulary, and the vector of each (words, width), without gradient."""
        ...


class AttackedModel(Protocol):
    """An erased model under attack, its base model, and a judge that knows the concept. `others` are the other concepts of
    its kind that the judge knows. `calls` counts the evaluations of the UNet so far, of both models, sample by sample."""

    concept: str
    synonyms: tuple[str, ...]
    others: tuple[str, ...]
    templates: tuple[str, ...]
    steps: int
    calls: int

    def count(self, evaluations: int) -> None:
        """Add evaluations that an attack has made itself, in an open session."""
        ...

    def draw(self, who: str, texts: Sequence[Text], seeds: Sequence[int], noise_scale: float = 1.0) -> Samples:
        """One picture a text by the model `who`, from the noise of its seed times `noise_scale`."""
        ...

    def complete(self, first: Sequence[Text], then: Sequence[Text], seeds: Sequence[int], base_steps: int) -> Samples:
        """The base model draws the first `base_steps` sampling steps of `first`, the erased model the others of `then`."""
        ...

    def repaint(
        self, texts: Sequence[Text], seeds: Sequence[int], latents: Tensor, strength: float, mask: Tensor | None = None
    ) -> Samples:
        """The erased model draws on from finished latents under noise: strength 1 forgets them, 0 keeps them. With a mask
        (height, width) of the latents only where it is 1."""
        ...

    def pictures(self, latents: Tensor) -> Tensor:
        """Finished latents in model space as images (n, height, width, 3) in [0, 1]."""
        ...

    def lacks(self, need: str) -> str | None:
        """Why the models do not have one of `NEEDS`, or None if they have it."""
        ...

    def open_session(self, who: str) -> AbstractContextManager[SoftDenoiser]:
        """The model as a denoiser, with gradients; afterwards it is as it was. Only one can be open at a time, and
        nothing can be drawn meanwhile."""
        ...

    def edited(self, edit: ErasedUNet) -> AbstractContextManager[None]:
        """Inside, the erased model carries one more edit of its weights; afterwards it is as it was."""
        ...

    def confidence(self, pictures: Tensor) -> Tensor:
        """How sure the judge is that each picture (n, height, width, 3) shows the concept, (n,) in [0, 1]."""
        ...

    def hits(self, pictures: Tensor) -> list[bool]:
        """Whether the concept is what the judge sees in each picture."""
        ...


def plain_prompts(attacked: AttackedModel, n: int, word: str | None = None) -> list[str]:
    """n prompts that say the concept, or another word, in the templates in turn."""
    shown = attacked.concept if word is None else word
    return [attacked.templates[i % len(attacked.templates)].replace(GAP, shown) for i in range(n)]


def soft_prompts(attacked: AttackedModel, n: int, vectors: Tensor) -> list[Text]:
    """n prompts with vectors in the place of the concept."""
    return [SoftPrompt(attacked.templates[i % len(attacked.templates)], vectors) for i in range(n)]
