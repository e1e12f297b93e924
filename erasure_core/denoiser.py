"""The seam: all that an erasure method may ask of a diffusion model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

TOKENS = "c_crossattn"


@dataclass(frozen=True)
class Conditioning:
    """What a model is told about n prompts. `values` maps a name to a tensor whose first dimension is n.

    `c_crossattn`, the text hidden states (n, tokens, width), is always there; a family may add more (a pooled vector, a
    mask). Prompts of different length are brought to one by repeating tokens, which leaves cross-attention as it is.
    """

    values: Mapping[str, Tensor]

    def __len__(self) -> int:
        return self.tokens.shape[0]

    @property
    def tokens(self) -> Tensor:
        """Text hidden states (n, tokens, width)."""
        return self.values[TOKENS]

    def rows(self, index: int | slice | Sequence[int] | Tensor) -> Conditioning:
        """The conditioning of the chosen prompts, in that order; an int keeps the first dimension."""
        if isinstance(index, int):
            index = [index]
        return Conditioning({name: value[index] for name, value in self.values.items()})

    def repeat(self, times: int) -> Conditioning:
        """Each prompt `times` in a row."""
        return Conditioning({name: value.repeat_interleave(times, 0) for name, value in self.values.items()})

    def mixed(self, weights: Tensor) -> Conditioning:
        """Weighted sums of the prompts: weights (m, n) give m prompts. Differentiable in `weights`."""
        return Conditioning(
            {name: torch.einsum("mn,n...->m...", weights.to(value.dtype), value) for name, value in self.values.items()}
        )

    @staticmethod
    def cat(parts: Sequence[Conditioning]) -> Conditioning:
        """All prompts of `parts`, in order."""
        length = math.lcm(*(part.tokens.shape[1] for part in parts))

        def fitted(part: Conditioning, name: str) -> Tensor:
            value = part.values[name]
            return value.repeat(1, length // value.shape[1], 1) if name == TOKENS else value

        return Conditioning({name: torch.cat([fitted(part, name) for part in parts]) for name in parts[0].values})


@runtime_checkable
class Denoiser(Protocol):
    """A diffusion model as an erasure method sees it. Latents are in the model's own (scaled) space.

    Noisy latents are `x0 + sigma * noise`, for flow models `(1 - sigma) * x0 + sigma * noise`; in both cases
    `x0 = x - sigma * predict(x, sigma, conditioning)`, so one set of formulas serves every family.
    """

    family: str
    device: torch.device

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """The conditioning of n prompts, without gradient."""
        ...

    def sigmas(self, n: int) -> Tensor:
        """n + 1 noise levels of a sampling run, falling from the model's largest to 0."""
        ...

    def empty_latents(self, n: int) -> Tensor:
        """Zeros of the shape of n latents (n, channels, ...), on the model's device, float32."""
        ...

    def predict(self, latents: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        """The prediction for latents (n, channels, ...) at noise levels sigma (n,), float32, of the latents' shape:
        of the noise, or for a flow model of the velocity. Gradients reach the conditioning and attached deltas."""
        ...

    def layers(self, group: str) -> dict[str, nn.Module]:
        """Name -> Linear or convolution of a layer group (`layers.GROUPS`); the names are those of the erased file.
        Raises ValueError if the family has no such layers."""
        ...

    def modules(self) -> Mapping[str, nn.Module]:
        """Every module of the network by name."""
        ...

    def blocks(self, kind: str) -> dict[str, nn.Module]:
        """Name -> module of the network's blocks of a kind, in the order in which they are run (`layers.blocks`)."""
        ...

    def heads(self, attention: str) -> int:
        """Number of heads of the attention whose layers are named `<attention>.to_q`, `<attention>.to_k` ..."""
        ...

    def positions(self, prompt: str, phrase: str | None = None) -> list[int]:
        """Where in `encode([prompt]).tokens` the prompt's own tokens are (not begin, end and padding), or only those of
        `phrase` in it. Raises ValueError if the prompt does not say the phrase."""
        ...

    def known_words(self) -> Sequence[str]:
        """The whole words of the text encoder's own vocabulary."""
        ...

    def describe_prompt(self, prompt: str) -> str | None:
        """Why the text encoder cannot see `prompt` (only unknown tokens, or too long), or None if it can."""
        ...
