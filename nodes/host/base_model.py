"""Read from a loaded MODEL and CLIP without running them: words, token positions, a fingerprint."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from ...erasure_core.erased_unet.fingerprint import Weight, fingerprint_of


def _vocabulary(clip: Any) -> dict[str, int]:
    """The entries of the first text encoder's vocabulary and their ids, in the order of these."""
    for part in vars(clip.tokenizer).values():
        vocabulary = getattr(getattr(part, "tokenizer", None), "get_vocab", None)
        if vocabulary is not None:
            return dict(sorted(vocabulary().items(), key=lambda entry: entry[1]))
    raise ValueError(
        f"{type(clip.tokenizer).__name__} does not show its vocabulary; choose a themed vocabulary instead of model_words"
    )


def whole_words(clip: Any) -> list[str]:
    """Entries of the vocabulary that are a word of at least three letters, the most frequent first."""
    return [word for word, _ in words_and_tokens(clip)]


def words_and_tokens(clip: Any) -> list[tuple[str, int]]:
    """The words of `whole_words`, each with the id of its token."""
    vocabulary = _vocabulary(clip)
    ends = [token for token in vocabulary if token.endswith("</w>")]
    spelled = {t[:-4]: t for t in ends} if ends else {t[1:]: t for t in vocabulary if t.startswith(("▁", "Ġ"))}
    fit = (word for word in spelled if len(word) > 2 and word.isascii() and word.isalpha())
    return [(word, vocabulary[spelled[word]]) for word in fit]


def token_vectors(clip: Any, texts: Sequence[str]) -> torch.Tensor | None:
    """See `erasure_core.denoiser.Denoiser.token_vectors`; of the first text encoder."""
    encoder = _first_encoder(clip)
    if encoder is None:
        return None
    table = encoder.get_input_embeddings().weight.detach()
    return torch.stack([_mean_vector(table, [token for _, token in _word_tokens(clip, text, "")]) for text in texts])


def _first_encoder(clip: Any) -> Any:
    """The text encoder that reads the tokens that come first, or None if this CLIP does not say which that is."""
    model, key = clip.cond_stage_model, next(iter(clip.tokenize("")))
    names = (f"clip_{key}", key, getattr(model, "clip", ""))
    found = (getattr(getattr(model, name, None), "transformer", None) for name in names if name)
    return next((encoder for encoder in found if hasattr(encoder, "get_input_embeddings")), None)


def _mean_vector(table: torch.Tensor, tokens: Sequence[Any]) -> torch.Tensor:
    """The mean (width,) of the rows of these tokens; a textual inversion's token is a vector already, kept as numbers."""
    rows = [table[token].float().cpu() if isinstance(token, int) else torch.tensor(token) for token in tokens]
    fitting = [row for row in rows if row.shape == table.shape[1:]]
    return torch.stack(fitting).mean(0) if fitting else torch.zeros(table.shape[1])


def positions(clip: Any, prompt: str, phrase: str | None, tokenizer: str = "") -> list[int]:
    """See `erasure_core.denoiser.Denoiser.positions`; in the tokens of this tokenizer, or else of the first."""
    tokens = _word_tokens(clip, prompt, tokenizer)
    if phrase is None:
        return [place for place, _ in tokens]
    wanted = [token for _, token in _word_tokens(clip, phrase, tokenizer)]
    for start in range(len(tokens) - len(wanted) + 1):
        window = tokens[start : start + len(wanted)]
        if wanted and [token for _, token in window] == wanted:
            return [place for place, _ in window]
    raise ValueError(f"the prompt {prompt!r} does not say {phrase!r}; name a phrase that is in it, word for word")


def _word_tokens(clip: Any, prompt: str, tokenizer: str) -> list[tuple[int, Any]]:
    """(position, token) of the prompt's words, which the tokenizer numbers from 1; begin, end and padding are 0."""
    tokens = clip.tokenize(prompt, return_word_ids=True)
    batches = tokens[tokenizer] if tokenizer else next(iter(tokens.values()))
    flat = [entry for batch in batches for entry in batch]
    return [(place, _comparable(token)) for place, (token, _weight, word) in enumerate(flat) if word > 0]


_WEIGHT = re.compile(r"\([^()]+:\s*-?[\d.]+\s*\)")


def weights_read_as_words(clip: Any, prompts: Iterable[str]) -> list[str]:
    """The prompts that give words a weight, `(word:1.5)`, if this CLIP's tokenizers read none (Qwen-Image, Z-Image)."""
    weighted = [prompt for prompt in dict.fromkeys(prompts) if _WEIGHT.search(prompt)]
    if not weighted:
        return []
    tokens = clip.tokenize("(cat:1.5)")
    read = any(weight != 1 for batches in tokens.values() for batch in batches for _, weight, *_ in batch)
    return [] if read else weighted


def _comparable(token: Any) -> Any:
    """A token as what can be compared: a vector of a textual inversion as its numbers."""
    return tuple(token.flatten().tolist()) if torch.is_tensor(token) else token


def _stored(weight: torch.Tensor) -> Weight:
    """A tensor as it is stored, which can be cut into pieces, also a quantised one."""
    numbers = getattr(weight, "_qdata", weight)
    scale = getattr(getattr(weight, "_params", None), "scale", None)
    one_scale = float(scale) if torch.is_tensor(scale) and scale.numel() == 1 else None
    return Weight(numbers, 1.0 if numbers is weight else one_scale)


def fingerprint(patcher: Any) -> str:
    """A fingerprint of the base weights, without any patches; compare with `same_checkpoint`."""
    backup, found = patcher.backup, {}
    for name, parameter in patcher.model.diffusion_model.named_parameters():
        key = f"diffusion_model.{name}"
        found[name] = _stored(backup[key].weight if key in backup else parameter.data)
    return fingerprint_of(found)
