"""Edits from others' files, translated to the layer names and weights of a loaded MODEL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import comfy.lora
import comfy.utils
import torch
from torch import Tensor

from ...erasure_core.erased_unet import PREFIX, WEIGHTS, ErasedUNet, check_tensors
from ...erasure_core.layers import PLAIN
from .linked import family_of

_LORA = "lora_unet_"


def translated(model: Any, erased: ErasedUNet) -> tuple[ErasedUNet, str]:
    """An edit of kind `foreign` as one of this MODEL's weights, and what the user should know of it. SPM's pairs are
    renamed; the whole weights of ESD and UCE become their difference to the MODEL's own.

    Raises ValueError, naming the layer, if the MODEL has not all of its layers, or not in these shapes.
    """
    name, tensors = erased.provenance.method.upper(), erased.tensors
    if erased.provenance.method == "spm":
        found = _renamed(model, tensors)
        note = f"{name}'s gate is not in its file: this edit acts on every prompt"
    else:
        found, share = _differences(model, tensors)
        note = f"{name}'s weights differ from this MODEL's by {100 * share:.1f} %"
        note += ": they were made on another checkpoint" if share > 0.5 else ""
    note += "; its file does not say on which checkpoint it was made: check that the concept is gone"
    provenance = replace(erased.provenance, kind=WEIGHTS, family=family_of(model))
    edit = ErasedUNet(found, provenance)
    check_tensors(edit)
    return edit, note


def _renamed(model: Any, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    found = {}
    for name, value in tensors.items():
        layer, suffix = name.split(".", 1)
        found[f"{_layer(keys.get(layer), name)}.{suffix}"] = value.float()
    return found


def _differences(model: Any, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], float]:
    """The changes of weights and biases, and their size as a share of the weights'."""
    keys = comfy.utils.unet_to_diffusers(model.model.model_config.unet_config)
    found, changed, whole = {}, 0.0, 0.0
    for name, value in tensors.items():
        key = keys.get(name)
        layer, kind = _layer(key and f"{PREFIX}{key}", name), name.rsplit(".", 1)[1]
        original = _unpatched(model, f"{PREFIX}{key}")
        if original.shape != value.shape or original.dtype not in PLAIN:
            raise ValueError(
                f"the edited {name!r} has shape {tuple(value.shape)}, this {family_of(model)} MODEL's is {original.dtype} of "
                f"shape {tuple(original.shape)}; load the kind of model that the edit was made on, as bfloat16, float16 or "
                f"float32"
            )
        original = original.detach().to("cpu", torch.float32)
        difference = value.float() - original
        found[f"{layer}.{'diff' if kind == 'weight' else 'diff_b'}"] = difference
        changed, whole = changed + float(difference.square().sum()), whole + float(original.square().sum())
    return found, (changed / max(whole, 1e-12)) ** 0.5


def _unpatched(model: Any, key: str) -> Tensor:
    """The checkpoint's own weight, without the patches that a loaded clone has put into it."""
    return model.backup[key].weight if key in model.backup else comfy.utils.get_attr(model.model, key)


def _layer(key: str | None, name: str) -> str:
    if key is None:
        raise ValueError(
            f"the edit changes {name!r}, and this MODEL has no such layer; load a UNet of the kind that it was made on "
            f"(SD 1.x, SD 2.x or SDXL)"
        )
    return key.removesuffix(".weight").removesuffix(".bias")
