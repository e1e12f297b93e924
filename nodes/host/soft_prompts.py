"""Token vectors in the place of words, through ComfyUI's own CLIP, with gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...erasure_core.denoiser import Conditioning
from ...erasure_core.evaluation.prompts import GAP
from ...erasure_core.red_team.subject import Soft
from ..base_model import positions, words_and_tokens
from .denoiser import ComfyDenoiser
from .opening import differentiable_weights

PLACEHOLDERS = ("thing", "object", "house")
"""Each is one token; one that the prompt does not say holds the place of the vectors."""


def only_encoder(clip: Any) -> str:
    """The key of the CLIP's one text encoder. Raises ValueError if it has several: each would need vectors of its own."""
    keys = list(clip.tokenize(""))
    if len(keys) != 1:
        raise ValueError(
            f"this CLIP has the text encoders {', '.join(keys)}, and vectors in place of words are only supported for a "
            f"CLIP with one; choose another attack"
        )
    return keys[0]


def soft_tokens(clip: Any, prompt: Soft) -> dict[str, list[list[tuple]]]:
    """The prompt's tokens as ComfyUI's tokenizer gives them, with the vectors (k, width) in the gap; the padding at the
    end gives way. Raises ValueError if the prompt is too long for that."""
    key = only_encoder(clip)
    holder = next(word for word in PLACEHOLDERS if word not in prompt.template or word == PLACEHOLDERS[-1])
    text = prompt.template.replace(GAP, holder)
    place = positions(clip, text, holder)[0]
    batch, *more = clip.tokenize(text)[key]
    extra = len(prompt.vectors) - 1
    own = 2 + len(positions(clip, text, None))  # with the tokens for begin and end
    if more or own + extra > len(batch):
        raise ValueError(
            f"{prompt.template!r} with {extra + 1} vectors is too long for the text encoder; use fewer vectors"
        )
    vectors = [(vector, 1.0) for vector in prompt.vectors]
    return {key: [[*batch[:place], *vectors, *batch[place + 1 : len(batch) - extra]]]}


def vectors_by_word(clip: Any) -> tuple[list[str], Tensor]:
    """Whole words of the text encoder's vocabulary, and a copy of the vector of each (words, width), float32."""
    key = only_encoder(clip)
    encoder = getattr(clip.cond_stage_model, clip.cond_stage_model.clip, None)
    if encoder is None:
        raise ValueError(f"the text encoder {key!r} does not show its token vectors; choose another attack")
    words, tokens = zip(*words_and_tokens(clip), strict=True)
    table = encoder.transformer.get_input_embeddings().weight
    return list(words), table.detach()[torch.tensor(tokens, device=table.device)].float().cpu().clone()


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
    """A MODEL and CLIP as `erasure_core.red_team.subject.SoftDenoiser`; hand it to `opened` as its kind."""

    def encode_soft(self, prompt: Soft) -> Conditioning:
        """See `SoftDenoiser.encode_soft`."""
        differentiable_weights(self._clip.cond_stage_model)
        with differentiable_forward(self._clip.cond_stage_model):
            return Conditioning(self._read(soft_tokens(self._clip, prompt)))

    def word_vectors(self) -> tuple[list[str], Tensor]:
        """See `SoftDenoiser.word_vectors`."""
        return vectors_by_word(self._clip)
