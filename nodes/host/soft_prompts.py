"""Token vectors in the place of words, through ComfyUI's own CLIP, with gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...erasure_core.denoiser import Conditioning
from ...erasure_core.evaluation.prompts import GAP
from ...erasure_core.red_team.attacked_model import DoesNotFit, SoftPrompt
from .base_model import positions, words_and_tokens
from .denoiser import ComfyDenoiser
from .session import differentiable_weights

CLIP_KEYS = {"l", "g", "h"}
"""The tokens of CLIP's own encoders, which share their words and pad a prompt to 77 tokens."""
PLACEHOLDERS = ("thing", "object", "house")
"""Each is one token; one that the prompt does not say holds the place of the vectors."""


def encoders(clip: Any) -> dict[str, nn.Module]:
    """The CLIP's text encoders by the key of their tokens. A word's vector is those of its token in each of them, one
    behind the other.

    Raises DoesNotFit if one does not show its token vectors, or has a vocabulary of its own (T5, language models): a word
    is then not the same tokens in all.
    """
    keys, model = list(clip.tokenize("")), clip.cond_stage_model
    names = [getattr(model, "clip", "")] if len(keys) == 1 else [f"clip_{key}" for key in keys]
    found = {
        key: encoder
        for key, name in zip(keys, names, strict=True)
        if (encoder := getattr(model, name, None)) is not None
    }
    if len(found) < len(keys) or not set(keys) <= CLIP_KEYS:
        raise DoesNotFit(
            f"this CLIP has the text encoders {', '.join(keys)}, and vectors in place of words are only supported where all "
            f"are CLIP's own (SD1.5, SD2.x, SDXL); choose another attack"
        )
    return found


def by_encoder(clip: Any, vectors: Tensor) -> dict[str, Tensor]:
    """Words' vectors (k, width) in parts, by the key of the encoder that each is for."""
    tables = {key: _table(encoder) for key, encoder in encoders(clip).items()}
    parts = vectors.split([table.shape[1] for table in tables.values()], dim=1)
    return dict(zip(tables, parts, strict=True))


def embedding_file(clip: Any, vectors: Tensor) -> dict[str, Tensor]:
    """Words' vectors (k, width) as ComfyUI reads them from a file: for several encoders under the name of each."""
    parts = {key: part.contiguous() for key, part in by_encoder(clip, vectors).items()}
    if len(parts) == 1:
        return {"emb_params": next(iter(parts.values()))}
    return {f"clip_{key}": part for key, part in parts.items()}


def _table(encoder: Any) -> Tensor:
    return encoder.transformer.get_input_embeddings().weight.detach()


def soft_tokens(clip: Any, prompt: SoftPrompt) -> dict[str, list[list[tuple]]]:
    """The prompt's tokens as ComfyUI's tokenizer gives them, with the vectors (k, width) in the gap; the padding at the
    end gives way. Raises DoesNotFit if the prompt is too long for that."""
    holder = next(word for word in PLACEHOLDERS if word not in prompt.template or word == PLACEHOLDERS[-1])
    text = prompt.template.replace(GAP, holder)
    tokens = clip.tokenize(text)
    found = {}
    for key, vectors in by_encoder(clip, prompt.vectors).items():
        place = positions(clip, text, holder, key)[0]
        batch, *more = tokens[key]
        extra = len(vectors) - 1
        used = 2 + len(positions(clip, text, None, key))  # with the tokens for begin and end
        if more or used + extra > len(batch):
            raise DoesNotFit(
                f"{prompt.template!r} with {extra + 1} vectors is too long for the text encoder; use fewer vectors"
            )
        filled = [(vector, 1.0) for vector in vectors]
        found[key] = [[*batch[:place], *filled, *batch[place + 1 : len(batch) - extra]]]
    return found


def vectors_by_word(clip: Any) -> tuple[list[str], Tensor]:
    """Whole words of the text encoders' vocabulary, and a copy of the vector of each (words, width), float32."""
    tables = [_table(encoder) for encoder in encoders(clip).values()]
    words, tokens = zip(*words_and_tokens(clip), strict=True)
    rows = torch.tensor(tokens)
    return list(words), torch.cat([table[rows.to(table.device)].float().cpu().clone() for table in tables], dim=1)


@contextmanager
def differentiable_forward(encoder: nn.Module) -> Iterator[None]:
    """Inside, a backward pass through the encoder works. ComfyUI's encoders add to their hidden states in place, but the
    normalisations before that have kept them for their gradients; here each normalisation reads a copy."""

    def copied(_module: nn.Module, arguments: tuple) -> tuple:
        return (arguments[0].clone(), *arguments[1:])

    with ExitStack() as hooks:
        for module in encoder.modules():
            if type(module).__name__.endswith("Norm"):
                hooks.callback(module.register_forward_pre_hook(copied).remove)
        yield


class SoftComfyDenoiser(ComfyDenoiser):
    """A MODEL and CLIP as `erasure_core.red_team.attacked_model.SoftDenoiser`; `open_session_as` takes it as a kind."""

    def encode_soft(self, prompt: SoftPrompt) -> Conditioning:
        """See `SoftDenoiser.encode_soft`."""
        differentiable_weights(self._clip.cond_stage_model)
        with differentiable_forward(self._clip.cond_stage_model):
            return Conditioning(self._read(soft_tokens(self._clip, prompt)))

    def word_vectors(self) -> tuple[list[str], Tensor]:
        """See `SoftDenoiser.word_vectors`."""
        return vectors_by_word(self._clip)
