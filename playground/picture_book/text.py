"""The picture book's text encoder: the shapes' seeded CLIP-L, in which the token embeddings of the words used are learned.

What lies near a concept then comes from pictures and captions. Only the learned rows are in the repository.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from ..text_encoder import CONFIG, POSITIONS, WIDTH, text_encoder_weights, tokenizer_ids
from ..training import fast_precision
from .words import token_ids

if TYPE_CHECKING:
    from comfy.clip_model import CLIPLayer, CLIPTextModel_

TABLE = "embeddings.token_embedding.weight"
CHANCE, SEEN, GAIN = 0.3, 0.9, 3.0
"""A row starts as a third of its seeded value, plus what is seen in the pictures that its word is said with, of nine tenths of
a seeded row's length; and it learns in steps of three times the UNet's learning rate."""


def used_tokens(captions: Sequence[str]) -> Tensor:
    """The tokens (m,) of captions, in rising order; those that begin, end and fill a text are among them."""
    return token_ids(captions).unique()


def seen(tokens: Tensor, captions: Sequence[str], pictures: Tensor) -> Tensor:
    """Where pictures put words: (m, 768), for each of `tokens` (m,) the mean of the pictures (n, d) whose caption says it,
    laid into the space of the embeddings by a seeded matrix.

    A synonym so starts beside its name and look-alikes near each other, as contrastive training leaves them in the real
    CLIP; words that are said of everything start at zero. Directions are evened out by the root of their spread, or
    little more than darkness and colour would tell two things apart.
    """
    said = torch.zeros(len(tokens), len(pictures))
    rows = torch.searchsorted(tokens, token_ids(captions))
    said[rows, torch.arange(len(pictures))[:, None]] = 1
    centred = pictures - pictures.mean(0)
    means = said @ centred / said.sum(1, keepdim=True).clamp(min=1)
    left, spread, _ = torch.linalg.svd(means, full_matrices=False)
    evened = left * spread.sqrt()
    project = torch.randn(evened.shape[1], WIDTH, generator=torch.Generator().manual_seed(25))
    laid = evened @ project
    return laid * WIDTH**0.5 / laid.norm(dim=1).median().clamp(min=1e-6)


def seeded_weights() -> dict[str, Tensor]:
    """The weights that the book's encoder has in common with the shapes', under their names in a checkpoint."""
    return text_encoder_weights(tokenizer_ids())


def with_rows(weights: dict[str, Tensor], tokens: Tensor, rows: Tensor) -> dict[str, Tensor]:
    """`weights` with the embeddings `rows` (m, 768) of `tokens` (m,) in their places."""
    table = weights[TABLE].clone()
    table[tokens] = rows.to(table.dtype)
    return {**weights, TABLE: table}


class Words(nn.Module):
    """Learned token embeddings, and the frozen layers that make hidden states of them."""

    start: Tensor

    def __init__(self, tokens: Tensor, weights: dict[str, Tensor], seen: Tensor) -> None:
        """`weights` as `seeded_weights` gives them; only the embeddings of `tokens` (m,) are learned, from where `seen`
        (m, 768) puts them."""
        super().__init__()
        self.learned = nn.Embedding(len(tokens), WIDTH)
        nn.init.zeros_(self.learned.weight)
        self.tokens = tokens
        self.register_buffer("start", CHANCE * weights[TABLE][tokens].float() + SEEN * seen)
        # in a tuple, so that the frozen layers are not trained, averaged and saved with the UNet
        self._layers = (_encoder(weights),)

    def rows(self) -> Tensor:
        """The embeddings (m, 768) as they are now."""
        return self.start + GAIN * self.learned.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Hidden states (n, 77, 768) of texts in tokens (n, 77), with gradients for the embeddings alone.

        Equal to what the full encoder gives. ComfyUI's own forward adds in place, which autograd cannot follow.
        """
        from comfy.ldm.modules.attention import optimized_attention_for_device

        model = self._layers[0]
        embedded = self.rows()[torch.searchsorted(self.tokens, tokens)]
        states = embedded + model.embeddings.position_embedding.weight
        mask = torch.full((POSITIONS, POSITIONS), -torch.finfo(states.dtype).max).triu_(1)
        attention = optimized_attention_for_device(states.device, mask=True, small_input=True)
        for layer in cast("list[CLIPLayer]", model.encoder.layers):
            states = states + layer.self_attn(layer.layer_norm1(states), mask, attention)
            states = states + layer.mlp(layer.layer_norm2(states))
        return model.final_layer_norm(states)


def _encoder(weights: dict[str, Tensor]) -> CLIPTextModel_:
    """The layers of the encoder that do something, frozen."""
    import comfy.ops
    from comfy.clip_model import CLIPTextModel_

    model = CLIPTextModel_(CONFIG, torch.float32, "cpu", comfy.ops.disable_weight_init)
    own = model.state_dict().keys() - {TABLE}
    # the table is large and never read: the words bring their own rows
    del model.embeddings.token_embedding
    model.load_state_dict({name: weights[name].float() for name in own})
    return model.requires_grad_(False)


@torch.no_grad()
def hidden_states(words: Words, captions: Sequence[str], batch: int = 64) -> Tensor:
    """Hidden states (n, 77, 768) of captions, in bf16: what a training on fixed words reads."""
    parts = []
    for part in token_ids(captions).split(batch):
        with fast_precision():
            parts.append(words(part).bfloat16())
    return torch.cat(parts)
