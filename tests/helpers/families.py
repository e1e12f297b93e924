"""Random models of every family, built by ComfyUI's own detection and loader, and text for them."""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from benchmarks.instruments.random_models import fill
from devtools.hosting.inprocess import load_comfy
from testbed.playground import Playground

from .layouts import LAYOUTS, UNET, Layout


class Vocabulary:
    """In place of a tokenizer: it shows a few whole words, as SentencePiece spells them."""

    def __init__(self) -> None:
        self.tokenizer = self

    def get_vocab(self) -> dict[str, int]:
        """Entry -> id."""
        return {f"▁{word}": i for i, word in enumerate(("circle", "house", "tree", "river", "stone", "cloud", "lamp"))}


class Text:
    """In place of a text encoder, which has up to 24 billion parameters: each word has a random state."""

    def __init__(self, layout: Layout) -> None:
        self._layout, self._states = layout, {}
        self.tokenizer, self.cond_stage_model = SimpleNamespace(words=Vocabulary()), torch.nn.Module()

    def tokenize(self, prompt: str, return_word_ids: bool = False) -> dict[str, list[list[tuple]]]:
        """As ComfyUI's: by tokenizer the prompt's words, filled up; a word's weight is 1, its number counts from 1."""
        words = [*prompt.split(), "<end>"]
        words = (words + ["<end>"] * self._layout.tokens)[: self._layout.tokens or len(words)]
        own = len(prompt.split())
        entries = [(word, 1.0, i + 1 if i < own else 0) for i, word in enumerate(words)]
        entries = entries if return_word_ids else [entry[:2] for entry in entries]
        # Anima's text states are of the tokens of its second tokenizer
        return {"words": [entries]} if self._layout.family != "Anima" else {"qwen3_06b": [[]], "t5xxl": [entries]}

    def encode_from_tokens_scheduled(self, tokens: dict, show_pbar: bool = True) -> list[list[Any]]:
        """Conditioning as ComfyUI's CLIP gives it: states (1, tokens, width), and what else the family's encoder says."""
        words = [entry[0] for entry in list(tokens.values())[-1][0]]
        states = torch.stack([self._state(word) for word in words])[None]
        said: dict[str, Tensor] = {}
        if self._layout.pooled_width:
            said["pooled_output"] = states[:, 0, : self._layout.pooled_width]
        if self._layout.mask:
            said["attention_mask"] = torch.ones(1, len(words), dtype=torch.long)
        if self._layout.family == "Anima":
            said["t5xxl_ids"] = torch.tensor([zlib.crc32(word.encode()) % 32128 for word in words], dtype=torch.int)
            said["t5xxl_weights"] = torch.ones(len(words))
        return [[states, said]]

    def _state(self, word: str) -> Tensor:
        if word not in self._states:
            generator = torch.Generator().manual_seed(zlib.crc32(word.encode()))
            self._states[word] = torch.randn(self._layout.width, generator=generator)
        return self._states[word]


class Autoencoder:
    """In place of a VAE, as wide as the family's: pictures whose colours are the first channels of the latents."""

    def __init__(self, latent_format: Any) -> None:
        self.latent_channels, self.latent_dim = latent_format.latent_channels, latent_format.latent_dimensions
        self._ratio = latent_format.spacial_downscale_ratio

    def spacial_compression_encode(self) -> int:
        """As ComfyUI's: how many pixels a side of a latent stands for."""
        return self._ratio

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (n, channels, ...) -> images (n, height, width, 3); of videos (n, frames, height, width, 3)."""
        assert latents.shape[1] == self.latent_channels and latents.ndim == 2 + self.latent_dim
        colours = (latents[:, :3].float() / 8).sigmoid().movedim(1, -1)
        for side in (-3, -2):
            colours = colours.repeat_interleave(self._ratio, side)
        return colours


def small_model(
    name: str | Layout,
    stored: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict,
    options: dict[str, Any] | None = None,
) -> Playground:
    """A random model of that layout (of `LAYOUTS`, or another), loaded by ComfyUI's own loader as it would load a file, and
    its text; it has no autoencoder and no judge. `stored` makes of half precision weights those of the file; `options` are
    the loader's."""
    load_comfy()
    import comfy.sd

    layout = name if isinstance(name, Layout) else LAYOUTS[name]
    weights = _weights(layout, checkpoint=layout.network == UNET)
    if name == "SD2 v":  # what the detection tells the two predictions by
        weights["model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"].normal_(0, 0.2)
    weights, options = stored(weights), options or {}
    with torch.inference_mode(), _detection(layout):
        if layout.network == UNET:
            parts = {"output_vae": False, "output_clip": False}
            model = comfy.sd.load_state_dict_guess_config(weights, **parts, model_options=options)[0]
        else:
            model = comfy.sd.load_diffusion_model_state_dict(weights, model_options=options)
    return Playground(model, Text(layout), None, {})


def _weights(layout: Layout, checkpoint: bool) -> dict[str, Tensor]:
    """Random weights in the type that most files have, under the names of a checkpoint or of a diffusion model's file."""
    import comfy.ops

    module, _, name = layout.network.rpartition(".")
    network = getattr(importlib.import_module(module), name)(
        **layout.config, dtype=torch.float32, device="cpu", operations=comfy.ops.disable_weight_init
    )
    fill(network, torch.Generator().manual_seed(1))
    prefix = "model.diffusion_model." if checkpoint else ""
    weights = {f"{prefix}{key}": value.half() for key, value in network.state_dict().items()}
    return weights | {key: torch.zeros(shape) for key, shape in layout.markers.items()}


@contextmanager
def _detection(layout: Layout) -> Iterator[None]:
    """Inside, ComfyUI's detection sees the full size where it knows no other, and builds the small one."""
    from comfy import model_detection

    real = model_detection.model_config_from_unet

    def detected(weights: dict[str, Tensor], prefix: str, *rest: Any, **named: Any) -> Any:
        shown = {f"{prefix}{key}": torch.empty(shape, device="meta") for key, shape in layout.shown.items()}
        config = real({**weights, **shown}, prefix, *rest, **named)
        config.unet_config.update(layout.smaller)
        return config

    model_detection.model_config_from_unet = detected
    try:
        yield
    finally:
        model_detection.model_config_from_unet = real
