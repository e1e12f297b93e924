"""SD 1.5 and SDXL at their true shape with random weights, for costs that do not depend on what a model has learned."""

from __future__ import annotations

import gc
import zlib
from typing import Any

import torch
from torch import Tensor

TOKENS = 77
_COMMON = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "use_spatial_transformer": True,
    "legacy": False,
}
CONFIGS = {
    "SD15": _COMMON
    | {
        "channel_mult": [1, 2, 4, 4],
        "num_res_blocks": [2, 2, 2, 2],
        "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
        "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
        "transformer_depth_middle": 1,
        "context_dim": 768,
        "num_heads": 8,
        "num_head_channels": -1,
        "use_linear_in_transformer": False,
    },
    "SDXL": _COMMON
    | {
        "channel_mult": [1, 2, 4],
        "num_res_blocks": [2, 2, 2],
        "transformer_depth": [0, 0, 2, 2, 10, 10],
        "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
        "transformer_depth_middle": 10,
        "context_dim": 2048,
        "num_heads": -1,
        "num_head_channels": 64,
        "use_linear_in_transformer": True,
        "num_classes": "sequential",
        "adm_in_channels": 2816,
    },
}
"""The arguments of ComfyUI's UNet."""
SIZES = {"SD15": 512, "SDXL": 1024}
POOLED = {"SD15": 0, "SDXL": 1280}


def random_model(family: str, *, empty: bool = False, dtype: torch.dtype = torch.float16) -> Any:
    """A MODEL of that family as ComfyUI loads it from a file in half precision, or of another `dtype`: its own detection
    chooses class and types by the shapes, and its memory management moves it. Seeded.

    With `empty` the weights are not even written, so that they take no memory yet, and the network computes in their own
    type, as on a GPU: for shapes.
    """
    import comfy.model_detection
    import comfy.model_management as management
    import comfy.model_patcher
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    # a model of an earlier run that is given up during the next would be taken off the memory that the next is seen to take
    management.unload_all_models()
    gc.collect()
    operations = comfy.ops.disable_weight_init
    shapes = UNetModel(**CONFIGS[family], dtype=dtype, device="meta", operations=operations).state_dict()
    config = comfy.model_detection.model_config_from_unet(shapes, "")
    if config is None:
        raise ValueError(f"ComfyUI sees no model in the shapes of {family}; compare CONFIGS with its UNetModel")
    device, offload = management.get_torch_device(), management.unet_offload_device()
    cast = None if empty else management.unet_manual_cast(dtype, device, config.supported_inference_dtypes)
    config.set_inference_dtype(dtype, cast, device=device)
    model = config.get_model(shapes, "", device=offload)
    if not empty:
        # a GPU draws the numbers of SDXL in a moment, one thread of a CPU in a minute
        fill(model.diffusion_model, torch.Generator(device).manual_seed(1))
    return comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=offload)


@torch.no_grad()
def fill(network: torch.nn.Module, generator: torch.Generator) -> None:
    """Matrices that keep the size of what they are given, norms near the identity."""
    tables = ((name, value) for name, value in network.named_buffers() if value.ndim > 1)  # SD3's positions
    for name, value in (*network.named_parameters(), *tables):
        deviation = value[0].numel() ** -0.5 if value.ndim > 1 else 0.02
        drawn = torch.empty(value.shape, dtype=value.dtype, device=generator.device)
        value.copy_(drawn.normal_(0, deviation, generator=generator))
        if value.ndim == 1 and not name.endswith("bias"):
            value += 1


class RandomText:
    """In place of a CLIP: each word has random states. Its time is not a text encoder's."""

    def __init__(self, family: str) -> None:
        self._width, self._pooled = CONFIGS[family]["context_dim"], POOLED[family]

    def tokenize(self, prompt: str, return_word_ids: bool = False) -> dict[str, list[list[tuple]]]:
        """As ComfyUI's: the prompt's words, filled up; a word's weight is 1, and its number counts from 1."""
        words = prompt.split()[:TOKENS]
        entries = [(word, 1.0, i) for i, word in enumerate(words, 1)] + [("<end>", 1.0, 0)] * (TOKENS - len(words))
        return {"words": [entries if return_word_ids else [entry[:2] for entry in entries]]}

    def encode_from_tokens_scheduled(self, tokens: dict, show_pbar: bool = True) -> list[list[Any]]:
        """States (1, 77, width) and, where the family reads it, a pooled vector, as ComfyUI's CONDITIONING holds them."""
        states = torch.stack([self._state(entry[0]) for entry in tokens["words"][0]])[None]
        return [[states, {"pooled_output": states[:, 0, : self._pooled] if self._pooled else None}]]

    def _state(self, word: str) -> Tensor:
        return torch.randn(self._width, generator=torch.Generator().manual_seed(zlib.crc32(word.encode())))
