"""The seam: all that an erasure method may ask of a diffusion model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

TOKENS, LAYOUT = "c_crossattn", "layout"


@dataclass(frozen=True)
class Conditioning:
    """The conditioning of n prompts. `values` maps a name to a tensor whose first dimension is n.

    `c_crossattn`, the text hidden states (n, tokens, width), is always there; a family may add more (a pooled vector, a
    mask). Prompts of different length are brought to one by repeating tokens, which leaves cross-attention as it is. In
    attention that text and picture share it would not: there `layout` (n,) says of which of the denoiser's layouts a
    prompt is, and longer texts have zeros behind them until the denoiser takes these off.
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

    def to(self, device: torch.device) -> Conditioning:
        """The same prompts on that device."""
        return Conditioning({name: value.to(device) for name, value in self.values.items()})

    def repeat(self, times: int) -> Conditioning:
        """Each prompt `times` in a row."""
        return Conditioning({name: value.repeat_interleave(times, 0) for name, value in self.values.items()})

    def mixed(self, weights: Tensor) -> Conditioning:
        """Weighted sums of the prompts: weights (m, n) give m prompts. Differentiable in `weights`. What is counted, such
        as a mask, is that of the prompt with the largest weight."""
        largest = weights.argmax(1)

        def sum_of(value: Tensor) -> Tensor:
            if not value.is_floating_point():
                return value[largest]
            return torch.einsum("mn,n...->m...", weights.to(value.dtype), value)

        return Conditioning({name: sum_of(value) for name, value in self.values.items()})

    @staticmethod
    def cat(parts: Sequence[Conditioning]) -> Conditioning:
        """All prompts of `parts`, in order."""
        if LAYOUT in parts[0].values:
            return _padded(parts)
        length = math.lcm(*(part.tokens.shape[1] for part in parts))

        def fitted(part: Conditioning, name: str) -> Tensor:
            value = part.values[name]
            return value.repeat(1, length // value.shape[1], 1) if name == TOKENS else value

        return Conditioning({name: torch.cat([fitted(part, name) for part in parts]) for name in parts[0].values})


def _padded(parts: Sequence[Conditioning]) -> Conditioning:
    """All prompts of `parts`, in order; what is shorter than in another part, or missing there, is filled with zeros."""
    shapes: dict[str, Tensor] = {}
    for part in parts:
        for name, value in part.values.items():
            if name not in shapes or value.shape[1:] > shapes[name].shape[1:]:
                shapes[name] = value

    def filled(part: Conditioning, name: str) -> Tensor:
        longest = shapes[name]
        value = part.values.get(name)
        if value is not None and value.shape[1:] == longest.shape[1:]:
            return value
        whole = longest.new_zeros((len(part), *longest.shape[1:]))
        if value is not None:
            whole[:, : value.shape[1]] = value
        return whole

    return Conditioning({name: torch.cat([filled(part, name) for part in parts]) for name in shapes})


def check_text(prompt: str, *states: Tensor) -> None:
    """Raise FloatingPointError, saying what to do, unless the text states of the prompt are finite: candidates are
    chosen by them, and a NaN would choose others in silence."""
    if not all(bool(value.isfinite().all()) for value in states):
        raise FloatingPointError(
            f"the text encoder gives NaN or infinity for {prompt!r}; nothing was returned. Load CLIP as bfloat16 or float32, "
            f"and leave out a LoRA that breaks it"
        )


@runtime_checkable
class Denoiser(Protocol):
    """A diffusion model as an erasure method sees it. Latents are in the model's own (scaled) space.

    Noisy latents are `x0 + sigma * noise`, for flow models `(1 - sigma) * x0 + sigma * noise`; in both cases
    `x0 = x - sigma * predict(x, sigma, conditioning)`, so one set of formulas serves every family.
    """

    family: str
    fingerprint: str
    """Identifies the checkpoint (`erased_unet.fingerprint`), "" where it is not known."""
    device: torch.device

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """The conditioning of n prompts, without gradient. Raises FloatingPointError, naming the prompt, if it is not finite
        (`check_text`)."""
        ...

    def read(self, tokens: Tensor) -> Tensor:
        """Text hidden states (n, tokens, width) -> what the keys and values of cross-attention read of them."""
        ...

    def sampling(self, steps: int, guidance_scale: float) -> tuple[int, float]:
        """The number of sampling steps and the guidance scale that a run of this model is to have, given those that the
        user set: guidance that a model has built in is not applied a second time, and a model that was distilled to a
        few steps takes no more."""
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

    def learning(self, text_as_it_is: bool = False) -> AbstractContextManager[None]:
        """Inside, many predictions are asked for and no weight is read or changed: what each prediction would do to the weights
        again may be done once, and what each layer would do to the text. With `text_as_it_is` the layers get the text as
        ever: for those who change it on the way to a layer, which is exact in float32 only."""
        ...

    def layers(self, group: str) -> dict[str, nn.Module]:
        """Name -> Linear or convolution of a layer group (`layers.GROUPS`); the names are those of the erased file.
        Raises ValueError if the family has no such layers."""
        ...

    def rows(self, group: str) -> Mapping[str, slice]:
        """Name -> rows of the layers of a layer group that belong to it only in part (fused queries, keys, values)."""
        ...

    def modules(self) -> Mapping[str, nn.Module]:
        """Every module of the network by name."""
        ...

    def blocks(self, kind: str) -> dict[str, nn.Module]:
        """Name -> module of the network's blocks of a kind, in the order in which they are run (`layers.blocks`)."""
        ...

    def make_room(self, wanted: int) -> int:
        """Bytes that are free on the device, after the host has tried to make room for `wanted`."""
        ...

    def heads(self, attention: str) -> int:
        """Number of heads of the attention whose layers are named `<attention>.to_q`, `<attention>.to_k` ..."""
        ...

    def positions(self, prompt: str, phrase: str | None = None) -> list[int]:
        """Where in `encode([prompt]).tokens` the prompt's own tokens are (not begin, end and padding), or only those of
        `phrase` in it. Raises ValueError if the prompt does not say the phrase."""
        ...

    def token_vectors(self, texts: Sequence[str]) -> Tensor | None:
        """Mean token vectors (n, width) of n texts, float32 on the CPU, read without running the text encoder; None if it
        does not show its vectors."""
        ...

    def known_words(self) -> Sequence[str]:
        """The whole words of the text encoder's own vocabulary."""
        ...

    def describe_prompt(self, prompt: str) -> str | None:
        """Why the text encoder cannot see `prompt` (only unknown tokens, or too long), or None if it can."""
        ...
