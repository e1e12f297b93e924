"""The network's cross-attention maps: how much each pixel attends to each token of the prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ..denoiser import Denoiser
from ..inference import recorded


@contextmanager
def attention_maps(denoiser: Denoiser) -> Iterator[Callable[[], dict[str, Tensor]]]:
    """Inside, after a call of `denoiser.predict`, the yielded function gives the cross-attention probabilities of that
    call: name of the attention -> (n, heads, pixels, tokens), with gradient.

    They are computed from the queries and keys that the layers gave, softmax(Q K^T / sqrt(d)), arXiv 1706.03762,
    equation 1, because fused attention kernels never form them.
    """
    layers = denoiser.layers("cross_attention")
    wanted = {name: layer for name, layer in layers.items() if name.endswith((".to_q", ".to_k"))}
    with recorded(wanted) as outputs:

        def maps() -> dict[str, Tensor]:
            names = [name.removesuffix(".to_q") for name in wanted if name.endswith(".to_q")]
            return {
                name: _probabilities(outputs[f"{name}.to_q"], outputs[f"{name}.to_k"], denoiser.heads(name))
                for name in names
                if f"{name}.to_q" in outputs
            }

        yield maps


def _probabilities(queries: Tensor, keys: Tensor, heads: int) -> Tensor:
    """Queries (n, pixels, width) and keys (n, tokens, width) -> (n, heads, pixels, tokens)."""
    queries, keys = (x.float().unflatten(-1, (heads, -1)).transpose(1, 2) for x in (queries, keys))
    return torch.softmax(queries @ keys.transpose(-1, -2) / queries.shape[-1] ** 0.5, dim=-1)
