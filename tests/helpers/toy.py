"""A denoiser of a few thousand parameters that answers in microseconds, with real attention to text."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from concept_erasure.erasure_core.denoiser import Conditioning
from torch import Tensor, nn

WIDTH, TOKENS, CHANNELS, SIZE = 16, 6, 4, 4


class ToyBlock(nn.Module):
    """One cross-attention layer and one convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.to_q, self.to_k, self.to_v = nn.Linear(CHANNELS, 8), nn.Linear(WIDTH, 8, bias=False), nn.Linear(WIDTH, 8)
        self.to_out = nn.Linear(8, CHANNELS)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        """Latents and text states -> prediction."""
        hidden = self.conv(x).flatten(2).transpose(1, 2)
        weights = torch.softmax(self.to_q(hidden) @ self.to_k(text).transpose(1, 2), -1)
        return x * 0.1 + self.to_out(weights @ self.to_v(text)).transpose(1, 2).reshape(x.shape)


def _states(prompt: str) -> Tensor:
    """A random state for each word, then the same one to the end: (TOKENS, WIDTH)."""

    def state(word: str) -> Tensor:
        return torch.randn(WIDTH, generator=torch.Generator().manual_seed(zlib.crc32(word.encode())))

    words = prompt.split()[:TOKENS] if "\x00" not in prompt else []
    return torch.stack([state(word) for word in words] + [state("<end>")] * (TOKENS - len(words)))


class ToyDenoiser:
    """Fulfils `Denoiser`. Every word has a fixed random state; a prompt is its words, then end tokens."""

    family, fingerprint = "toy", "0"
    device = torch.device("cpu")

    def __init__(self, seed: int = 0) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            parts = {
                "block": ToyBlock(),
                "enc": nn.Conv2d(CHANNELS, CHANNELS, 1),
                "dec": nn.Conv2d(2 * CHANNELS, CHANNELS, 3, padding=1),
            }
            nn.init.dirac_(parts["enc"].weight)
            nn.init.zeros_(parts["enc"].bias)
            self.network = nn.ModuleDict(parts).requires_grad_(False)
        self.calls = 0
        self.free = 1 << 30

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """See `Denoiser`."""
        return Conditioning({"c_crossattn": torch.stack([_states(prompt) for prompt in prompts])})

    def read(self, tokens: Tensor) -> Tensor:
        """See `Denoiser`."""
        return tokens

    def learning(self, text_as_it_is: bool = False) -> AbstractContextManager[None]:
        """See `Denoiser`."""
        return nullcontext()

    def sampling(self, steps: int, guidance_scale: float) -> tuple[int, float]:
        """See `Denoiser`."""
        return steps, guidance_scale

    def sigmas(self, n: int) -> Tensor:
        """See `Denoiser`."""
        return torch.linspace(10.0, 0.0, n + 1)

    def empty_latents(self, n: int) -> Tensor:
        """See `Denoiser`."""
        return torch.zeros(n, CHANNELS, SIZE, SIZE)

    def predict(self, latents: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        """See `Denoiser`."""
        self.calls += len(sigma)
        scale = (1 + sigma.square()).rsqrt().reshape(-1, 1, 1, 1)
        skip = self.network["enc"](latents * scale)  # starts as the identity, so that the block sees the latents
        stream = self.network["block"](skip, conditioning.tokens)
        return stream + 0.1 * self.network["dec"](torch.cat([stream, skip], dim=1))

    def layers(self, group: str) -> dict[str, nn.Module]:
        """See `Denoiser`."""
        block = self.network["block"]
        names = {
            "cross_attention_kv": ("to_k", "to_v"),
            "cross_attention": ("to_q", "to_k", "to_v", "to_out"),
            "all": ("conv", "to_q", "to_k", "to_v", "to_out"),
        }
        if group not in names:
            raise ValueError(f"the toy has no layer of the group {group!r}")
        chosen = {f"block.{name}": getattr(block, name) for name in names[group]}
        return chosen | {name: self.network[name] for name in ("enc", "dec") if group == "all"}

    def rows(self, group: str) -> dict[str, slice]:
        """See `Denoiser`."""
        return {}

    def modules(self) -> dict[str, nn.Module]:
        """See `Denoiser`."""
        return dict(self.network.named_modules())

    def blocks(self, kind: str) -> dict[str, nn.Module]:
        """See `Denoiser`: the decoder's one block reads the residual stream, then the one skip."""
        name = {"encoder": "enc", "transformer": "block", "decoder": "dec", "checkpointed": "block"}[kind]
        return {name: self.network[name]}

    def make_room(self, wanted: int) -> int:
        """See `Denoiser`."""
        return self.free

    def heads(self, attention: str) -> int:
        """See `Denoiser`."""
        return 1

    def positions(self, prompt: str, phrase: str | None = None) -> list[int]:
        """See `Denoiser`."""
        words = prompt.split()[:TOKENS]
        if phrase is None:
            return list(range(len(words)))
        wanted = phrase.split()
        for start in range(len(words) - len(wanted) + 1):
            if wanted and words[start : start + len(wanted)] == wanted:
                return list(range(start, start + len(wanted)))
        raise ValueError(f"the prompt {prompt!r} does not say {phrase!r}")

    def token_vectors(self, texts: Sequence[str]) -> Tensor | None:
        """See `Denoiser`."""
        return torch.stack([_states(text).mean(0) for text in texts])

    def known_words(self) -> list[str]:
        """See `Denoiser`."""
        return [f"word{i}" for i in range(40)]

    def describe_prompt(self, prompt: str) -> str | None:
        """See `Denoiser`."""
        return "the text encoder sees nothing in it" if "\x00" in prompt else None

    def state(self) -> dict[str, Tensor]:
        """A copy of all weights."""
        return {name: value.clone() for name, value in self.network.state_dict().items()}
