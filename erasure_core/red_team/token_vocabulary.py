"""Words of the text encoder's own vocabulary for attacks and their controls."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from .attacked_model import BASE, AttackedModel, DoesNotFit


def vocabulary(attacked: AttackedModel) -> tuple[list[str], Tensor]:
    """Every whole word, and its vector (words, width), without those that say the concept."""
    with attacked.open_session(BASE) as denoiser:
        words, vectors = denoiser.word_vectors()
    keep = [i for i, word in enumerate(words) if not _says(word, attacked.concept)]
    return [words[i] for i in keep], vectors[keep]


def concept_vector(attacked: AttackedModel) -> Tensor:
    """The mean vector (width,) of the concept's words that the vocabulary has whole.

    Raises DoesNotFit if it has none of them.
    """
    with attacked.open_session(BASE) as denoiser:
        words, vectors = denoiser.word_vectors()
    rows = [words.index(word) for word in attacked.concept.casefold().split() if word in words]
    if not rows:
        raise DoesNotFit(
            f"no word of {attacked.concept!r} is a single token of this text encoder, so no token is nearest to it; "
            f"choose another attack, such as paraphrase or textual_inversion"
        )
    return vectors[rows].mean(0)


def nearest(vectors: Tensor, to: Tensor, k: int) -> list[int]:
    """Rows of the k vectors (n, width) with the largest cosine to one (width,), the nearest first."""
    return cosine_similarity(vectors, to[None], dim=1).topk(min(k, len(vectors))).indices.tolist()


def random_words(attacked: AttackedModel, n: int, generator: torch.Generator) -> list[str]:
    """n different words of the vocabulary that do not say the concept."""
    words = other_words(attacked)
    return [words[i] for i in torch.randperm(len(words), generator=generator)[:n].tolist()]


def other_words(attacked: AttackedModel) -> list[str]:
    """The whole words of the vocabulary that do not say the concept; every text encoder has them."""
    with attacked.open_session(BASE) as denoiser:
        return [word for word in denoiser.known_words() if not _says(word, attacked.concept)]


def _says(word: str, concept: str) -> bool:
    return word.casefold() in concept.casefold().split() or concept.casefold() in word.casefold()
