"""Word lists that the adversary searches, and the whole words of the model's own tokenizer."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..concepts import lines
from ..denoiser import Denoiser
from ..method import setting

_FOLDER = Path(__file__).parent / "vocabularies"
MODEL_WORDS = "model_words"
VOCABULARIES = (*sorted(path.stem for path in _FOLDER.glob("*.txt")), MODEL_WORDS)


def word_list(
    help: str = "Where the candidates come from. model_words are the most frequent whole words of the text encoder.",
    more: tuple[str, ...] = (),
    advanced: bool = False,
) -> Any:
    """The setting that chooses a vocabulary, or one of `more` choices."""
    return setting("everyday_words", help, choices=(*VOCABULARIES, *more), advanced=advanced)


def words_of(vocabulary: str, denoiser: Denoiser, limit: int) -> list[str]:
    """The words of a vocabulary, without repetition: all of a themed list, or the `limit` most frequent whole words of
    the model's text encoder. Raises ValueError for an unknown vocabulary."""
    if vocabulary == MODEL_WORDS:
        return list(dict.fromkeys(denoiser.known_words()))[:limit]
    if vocabulary not in VOCABULARIES:
        raise ValueError(f"unknown vocabulary {vocabulary!r}; choose one of {', '.join(VOCABULARIES)}")
    return list(dict.fromkeys(lines(_text_of(vocabulary))))


def of_one_kind(words: Iterable[str]) -> frozenset[str]:
    """All words of the themed lists that stand under one heading with one of `words`, and these."""
    said = {word.casefold() for word in words}
    kinds = (set(lines(kind)) for name in VOCABULARIES if name != MODEL_WORDS for kind in _text_of(name).split("\n\n"))
    return frozenset(said.union(*(kind for kind in kinds if kind & said)))


def _text_of(vocabulary: str) -> str:
    return (_FOLDER / f"{vocabulary}.txt").read_text(encoding="utf-8")
