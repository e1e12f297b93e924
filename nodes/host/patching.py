"""A MODEL with an erased UNet on it: patches of weights, wrappers around the model's calls, and what it says when saved."""

from __future__ import annotations

import functools
import logging
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import comfy.lora
import comfy.lora_convert
import comfy.model_management
import comfy.patcher_extension
import comfy.utils
import comfy_execution.utils
import torch
from torch import Tensor

from ...erasure_core.erased_unet import PREFIX, ErasedUNet, misfit
from ...erasure_core.inference import InferenceEdit, ModelCall
from ...erasure_core.method import inference_edit
from .. import saving
from .services import check_linked, send_text


def family_of(model: Any) -> str:
    """The family name of a MODEL, as `layers.FAMILIES` spells it. Raises ValueError if the MODEL is empty."""
    check_linked(model)
    return type(model.model.model_config).__name__


def patched(model: Any, erased: ErasedUNet, strength: float) -> Any:
    """A clone of `model` with an erased UNet at `strength`: weight edits read by ComfyUI's own LoRA code, and around
    each call of the network what acts at inference.

    Raises ValueError if no edit, or not every edit, finds a layer of its shape.
    """
    clone = model.clone()
    weights = erased.weights()
    if weights:
        key_map = comfy.lora.model_lora_keys_unet(model.model, {})
        _check_layers(model, erased, key_map)
        patches = comfy.lora.load_lora(comfy.lora_convert.convert_lora(weights), key_map, log_missing=False)
        clone.add_patches(patches, strength)
    if erased.provenance.kind == "hook":
        edit = inference_edit(erased)
        wrapper = _wrapper(clone, edit, strength)
        clone.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.APPLY_MODEL, f"erasure.{uuid.uuid4()}", wrapper)
    _carry(clone, erased)
    return clone


def _check_layers(model: Any, erased: ErasedUNet, key_map: Mapping[str, str]) -> None:
    """Raise ValueError unless every edited layer is in the model and the edit has its shape; ComfyUI would only log it."""
    layers = {f"{PREFIX}{name}": change for name, change in erased.layers().items()}
    found = [name for name in layers if name in key_map]
    if len(found) < len(layers):
        raise ValueError(
            f"the erased UNet edits {len(layers)} layers, but only {len(found)} of them are in this "
            f"{family_of(model)} MODEL; nothing was applied. Load the kind of model that it was made for"
        )
    for name, change in layers.items():
        layer = comfy.utils.get_attr(model.model, key_map[name].removesuffix(".weight"))
        if not layer.weight.is_floating_point():
            continue  # packed by a quantiser: its shape is not the layer's
        trouble = misfit(change, layer.weight, layer.bias)
        if trouble:
            raise ValueError(
                f"the erased UNet does not fit the layer {name!r} of this {family_of(model)} MODEL: {trouble}; nothing "
                f"was applied. Load the kind of model that it was made for, or save the edit again"
            )


class _Carrier:
    """Mixed into the class of a patched MODEL: it says what it carries before it is saved or trained on.

    ComfyUI has no callback for saving. Its clones are of their origin's class, so they say it too; ComfyUI's own classes
    and modules are not changed, and a plain MODEL is not touched.
    """

    def state_dict_for_saving(self, *arguments: Any, **named: Any) -> Any:
        """What every node that writes a checkpoint asks for."""
        _warn(saving.on_saving(self.get_attachment(saving.ATTACHMENT)))
        return super().state_dict_for_saving(*arguments, **named)

    def pre_run(self) -> None:
        """What is called before sampling, and by ComfyUI's trainer before it trains."""
        if comfy.model_management.in_training:
            _warn(saving.on_training(self.get_attachment(saving.ATTACHMENT)))
        super().pre_run()


@functools.cache
def _carrier_class(patcher_class: type) -> type:
    return type(patcher_class.__name__, (_Carrier, patcher_class), {})


def _carry(clone: Any, erased: ErasedUNet) -> None:
    """Note on `clone` what it carries now. Also keeps ComfyUI from taking it for a plain MODEL with the same patches."""
    carried = clone.get_attachment(saving.ATTACHMENT) or ()
    clone.set_attachments(saving.ATTACHMENT, (*carried, erased.provenance))
    if not isinstance(clone, _Carrier):
        clone.__class__ = _carrier_class(type(clone))


def _warn(text: str) -> None:
    """Put a warning into the log, and onto the node that is running."""
    logging.warning("Concept Erasure: %s", text)
    running = comfy_execution.utils.get_executing_context()
    send_text(text, running.node_id if running else None)


def _wrapper(clone: Any, edit: InferenceEdit, strength: float) -> Callable[..., Tensor]:
    """What ComfyUI calls in place of the model, which in turn calls the model inside `edit`."""
    modules = dict(clone.model.diffusion_model.named_modules())

    def around(executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **others):
        options = {} if transformer_options is None else transformer_options
        if c_crossattn is None:
            raise ValueError(
                "this erased UNet acts on the text that a model reads by cross-attention; this MODEL has none"
            )

        def forward(tokens: Tensor) -> Tensor:
            # the UNet takes the residuals of a ControlNet off these lists, and a second pass needs them again
            residuals = None if control is None else {name: list(given) for name, given in control.items()}
            return executor(x, t, c_concat, tokens, residuals, options, **others)

        halves = torch.tensor(options.get("cond_or_uncond", [0]), device=x.device) == 0
        positive = halves.repeat_interleave(len(x) // len(halves))
        return edit(modules, ModelCall(x, t, c_crossattn, positive), forward, strength)

    return around
