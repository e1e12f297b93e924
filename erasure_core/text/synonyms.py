"""Words that mean much the same to the model's text encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..denoiser import Conditioning, Denoiser
from ..method import setting
from .prompt_templates import WORDS

WORDS_AT_ONCE = 128
WORTH_ENCODING, OTHERS = 0.3, 16
"""The similarity of token vectors from which a word may be a synonym, and how many other words are encoded beside those."""
SYNONYM_SIMILARITY = 0.7
"""Words more similar than this (`similarities`) count as synonyms where the user sets nothing else."""


def similarities(words: Conditioning, targets: Conditioning) -> Tensor:
    """Cosine of each of n words to its nearest target, (n,), after taking off the words' mean: all prompts share their
    begin, end and padding tokens, and without that every two words look alike."""
    if words.tokens.shape[1] != targets.tokens.shape[1]:
        both = Conditioning.cat([words, targets])
        words, targets = both.rows(slice(len(words))), both.rows(slice(len(words), None))
    states = words.tokens.flatten(1)
    centre = states.mean(0, keepdim=True, dtype=torch.float32)

    def directions(rows: Tensor) -> Tensor:
        return torch.nn.functional.normalize(rows.float() - centre)

    # a product of matrices: pairs of words times all tokens would fill the memory; so would copies of 3,000 words' text
    erased = directions(targets.tokens.flatten(1)).T
    return torch.cat([(directions(rows) @ erased).amax(1) for rows in states.split(WORDS_AT_ONCE)])


def vector_similarities(denoiser: Denoiser, words: Sequence[str], targets: Sequence[str]) -> Tensor | None:
    """The like of `similarities` from token vectors, which costs no run of the text encoder: (n,), or None if the encoder
    does not show its vectors. Near enough to say which words are worth encoding; it takes a sentence for a bag of words."""
    vectors = denoiser.token_vectors([*words, *targets])
    if vectors is None:
        return None
    directions = torch.nn.functional.normalize(vectors - vectors[: len(words)].mean(0), dim=1)
    return (directions[: len(words)] @ directions[len(words) :].T).amax(1)


def evenly(start: int, stop: int, n: int) -> list[int]:
    """At most n whole numbers from `start` to before `stop`, evenly spread, the ends among them."""
    n = min(n, stop - start)
    return sorted({round(x) for x in torch.linspace(start, stop - 1, n).tolist()}) if n > 0 else []


def template_words_like(denoiser: Denoiser, targets: Sequence[str]) -> frozenset[str]:
    """The words of `prompt_templates` that mean a target. No sentence may say one: "a square box" has the neutral sentence
    "a box", so it would teach that a synonym of "square" stays, and "a red square" as a sentence about "red" the target."""
    words, near = WORDS, vector_similarities(denoiser, WORDS, targets)
    if near is not None:
        # the others are there for the mean of words in general, which is taken off
        chosen = {*(near > WORTH_ENCODING).nonzero().flatten().tolist(), *evenly(0, len(WORDS), OTHERS)}
        words = tuple(WORDS[i] for i in sorted(chosen))
    similarity = similarities(denoiser.encode(words), denoiser.encode(targets))
    return frozenset(words[int(i)] for i in (similarity > SYNONYM_SIMILARITY).nonzero())


def synonym_limit() -> Any:
    """The similarity from which a word counts as a synonym, which must not be preserved."""
    return setting(
        SYNONYM_SIMILARITY,
        "Words more similar to a target than this (cosine) count as synonyms and are left out.",
        minimum=0.0,
        maximum=1.0,
        step=0.01,
        advanced=True,
    )
