"""Random models of several levels, as small as ComfyUI's own detection lets a family be, and text for them."""

from __future__ import annotations

import zlib
from typing import Any

import torch
from torch import Tensor

from benchmarks.playground import Playground
from devtools.inprocess import load_comfy

TOKENS = 77
WIDTH = {"SD15": 768, "SDXL": 2048}
POOLED = 1280
_COMMON = {"image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "legacy": False}
LAYOUTS = {
    "SD15": {
        "channel_mult": [1, 2],
        "num_res_blocks": [1, 1],
        "transformer_depth": [1, 1],
        "transformer_depth_output": [1, 1, 1, 1],
        "transformer_depth_middle": 1,
        "num_heads": 8,
        "num_head_channels": -1,
        "use_linear_in_transformer": False,
    },
    # the depths of the encoder are what SDXL is recognised by; the rest may be shallow
    "SDXL": {
        "channel_mult": [1, 1, 1],
        "num_res_blocks": [2, 2, 2],
        "transformer_depth": [0, 0, 2, 2, 10, 10],
        "transformer_depth_output": [0, 0, 0, 1, 1, 1, 1, 1, 1],
        "transformer_depth_middle": 1,
        "num_heads": -1,
        "num_head_channels": 64,
        "use_linear_in_transformer": True,
        "num_classes": "sequential",
        "adm_in_channels": 2816,
    },
}


class Text:
    """In place of a text encoder, which for SDXL has 0.8 billion parameters: each word has a random state."""

    def __init__(self, width: int) -> None:
        self._width = width

    def tokenize(self, prompt: str) -> list[str]:
        """The prompt's words, filled up."""
        return (prompt.split() + ["<end>"] * TOKENS)[:TOKENS]

    def encode_from_tokens_scheduled(self, tokens: list[str], show_pbar: bool = True) -> list[list[Any]]:
        """Conditioning as ComfyUI's CLIP gives it: states (1, tokens, width), and the pooled state (1, 1280)."""
        states = torch.stack([self._state(token) for token in tokens])[None]
        return [[states, {"pooled_output": states[:, 0, :POOLED]}]]

    def _state(self, word: str) -> Tensor:
        return torch.randn(self._width, generator=torch.Generator().manual_seed(zlib.crc32(word.encode())))


def small_model(family: str) -> Playground:
    """A random model of the family, loaded by ComfyUI's own loader as it would load a checkpoint, and its text; it has
    no autoencoder and no judge."""
    load_comfy()
    import comfy.ops
    import comfy.sd
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    from playground.training import initialise

    layout = {**_COMMON, **LAYOUTS[family], "context_dim": WIDTH[family], "use_spatial_transformer": True}
    unet = UNetModel(**layout, dtype=torch.float32, operations=comfy.ops.disable_weight_init)
    initialise(unet, seed=1)
    weights = {f"model.diffusion_model.{name}": value.half() for name, value in unet.state_dict().items()}
    del unet  # half a gigabyte, of which ComfyUI makes its own
    with torch.inference_mode():
        model = comfy.sd.load_state_dict_guess_config(weights, output_vae=False, output_clip=False)[0]
    return Playground(model, Text(WIDTH[family]), None, {})
