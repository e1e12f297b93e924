"""An erased UNet's low-rank edits on the toy's own weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from concept_erasure.erasure_core.erased_unet import ErasedUNet

from .toy import ToyDenoiser


@contextmanager
def edited(denoiser: ToyDenoiser, erased: ErasedUNet) -> Iterator[None]:
    """Inside, the toy has the edited weights; afterwards its own."""
    before = denoiser.state()
    try:
        with torch.no_grad():
            for key, up in erased.weights().items():
                if key.endswith(".lora_up.weight"):
                    base = key.removesuffix(".lora_up.weight")
                    down = erased.tensors[f"{base}.lora_down.weight"]
                    weight = denoiser.network.get_submodule(base.removeprefix("diffusion_model.")).weight
                    weight += (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)
        yield
    finally:
        denoiser.network.load_state_dict(before)
