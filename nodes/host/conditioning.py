"""ComfyUI's encoding of a prompt for one model, as rows of a `Conditioning`, and back into arguments of the model.

ComfyUI repeats the text of a UNet to a common length. For every other model it calls prompts of different length one by
one, and gives some of them constants besides their tensors: what belongs together is a `Layout`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import comfy.conds
import comfy.sampler_helpers
import comfy.samplers
import torch
from torch import Tensor

from ...erasure_core.denoiser import LAYOUT, TOKENS, Conditioning


@dataclass(frozen=True)
class Layout:
    """The sizes of the tensors that one prompt gives, by name and without the first dimension, and its constants."""

    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    constants: tuple[tuple[str, Any], ...]


_LAYOUTS: dict[Layout, int] = {}
"""Every layout met, numbered: prompts that one run encoded can be used in another."""


def processed(model: Any, text: Any, latents: Tensor) -> dict[str, Tensor]:
    """The arguments of `model` for one prompt that CLIP encoded: tensors whose first dimension is 1, on the latents' device.

    Under inference mode, as sampling does it, unless the text has a gradient: outside of it ComfyUI leaves some of the
    work to the network (Anima).
    Raises ValueError if the text does not reach the model as hidden states, or with something that is no plain value.
    """
    with nullcontext() if text[0][0].requires_grad else torch.inference_mode():
        conds = comfy.sampler_helpers.convert_cond(text)
        # an inpainting model is given an empty picture, all of which is to be painted
        every = comfy.samplers.process_conds(model, latents, {"positive": conds}, latents.device, latent_image=latents)
    found = {
        name: cond.process_cond(batch_size=1, area=None) for name, cond in every["positive"][0]["model_conds"].items()
    }
    values = {name: cond.cond.to(latents.device).clone() for name, cond in found.items() if torch.is_tensor(cond.cond)}
    if TOKENS not in values:
        raise ValueError("the text does not reach this kind of model as hidden states; unsupported")
    if isinstance(found[TOKENS], comfy.conds.CONDCrossAttn):  # a UNet: texts of any length go together
        return values
    return values | {LAYOUT: torch.tensor([_layout_number(found, values)], device=latents.device)}


def _layout_number(found: dict[str, Any], values: dict[str, Tensor]) -> int:
    shapes = tuple(sorted((name, tuple(value.shape[1:])) for name, value in values.items()))
    constants = tuple(sorted((name, cond.cond) for name, cond in found.items() if name not in values))
    if any(not isinstance(value, (int, float, str, bool, type(None))) for _, value in constants):
        raise ValueError(
            f"this CLIP gives the model {[name for name, _ in constants]}, not all plain values; unsupported"
        )
    return _LAYOUTS.setdefault(Layout(shapes, constants), len(_LAYOUTS))


def calls(conditioning: Conditioning) -> Iterator[tuple[Tensor | slice, dict[str, Any]]]:
    """The calls of the model that `conditioning` takes: which rows, and the arguments for these."""
    if LAYOUT not in conditioning.values:
        yield slice(None), dict(conditioning.values)
        return
    numbers, layouts = conditioning.values[LAYOUT], list(_LAYOUTS)
    for number in numbers.unique().tolist():
        layout = layouts[number]
        rows = (numbers == number).nonzero().squeeze(1)
        chosen = slice(None) if len(rows) == len(numbers) else rows
        arguments = {
            name: conditioning.values[name][chosen][(slice(None), *map(slice, shape))] for name, shape in layout.shapes
        }
        yield chosen, arguments | dict(layout.constants)
