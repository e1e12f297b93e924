"""An erased UNet's edits on the toy's own weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from concept_erasure.erasure_core.erased_unet import ErasedUNet

from .toy import ToyDenoiser


@contextmanager
def edited(denoiser: ToyDenoiser, erased: ErasedUNet) -> Iterator[None]:
    """Inside, the toy has the edited weights; afterwards its own."""
    before, changes = denoiser.state(), {}
    for key, value in erased.weights().items():
        if key.endswith(".lora_up.weight"):
            base = key.removesuffix(".lora_up.weight")
            changes[base] = value.flatten(1) @ erased.tensors[f"{base}.lora_down.weight"].flatten(1)
        elif key.endswith(".diff"):
            changes[key.removesuffix(".diff")] = value
    try:
        with torch.no_grad():
            for base, change in changes.items():
                weight = denoiser.network.get_submodule(base.removeprefix("diffusion_model.")).weight
                weight += change.reshape(weight.shape)
        yield
    finally:
        denoiser.network.load_state_dict(before)
