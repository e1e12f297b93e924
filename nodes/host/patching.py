"""A MODEL with an erased UNet on it: patches of weights, and wrappers around the model's calls."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import comfy.lora
import comfy.lora_convert
import comfy.patcher_extension
import comfy.utils
from torch import Tensor, nn

from ...erasure_core.erased_unet import PREFIX, ErasedUNet, misfit
from ...erasure_core.inference import InferenceEdit, ModelCall
from ...erasure_core.method import inference_edit
from .carrier import KEY, carry
from .linked import family_of
from .negative_rows import follow_the_guider, positive_rows


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
        wrapper = _wrapper(inference_edit(erased), strength)
        clone.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.APPLY_MODEL, f"{KEY}{uuid.uuid4()}", wrapper)
        follow_the_guider(clone)
    carry(clone, erased.provenance)
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


class Modules(Mapping[str, nn.Module]):
    """The modules of a network by their names in the checkpoint, each looked up when it is asked for. Of those that are
    compiled it gives what was compiled."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network

    def __getitem__(self, name: str) -> nn.Module:
        module = _inside(self._network)
        for part in name.split("."):
            child = module._modules[part]
            if child is None:  # a layer that this network leaves out
                raise KeyError(name)
            module = _inside(child)
        return module

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self._network.named_modules() if name and _COMPILED not in name)

    def __len__(self) -> int:
        return sum(1 for _ in self)


_COMPILED = "_orig_mod"
"""Where a compiled module keeps the one that it was made of."""


def _inside(module: nn.Module) -> nn.Module:
    inner = module._modules.get(_COMPILED)
    return module if inner is None else inner


def _wrapper(edit: InferenceEdit, strength: float) -> Callable[..., Tensor]:
    """The function that ComfyUI calls in place of the model, and that calls the model inside `edit`. It acts on the network
    that runs: clones for training, for other devices and without dynamic memory have one of their own, and are given the
    wrapper of their origin."""

    def around(executor, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **others):
        options = {} if transformer_options is None else transformer_options
        passes = itertools.count()

        def forward(tokens: Tensor | None) -> Tensor:
            # the UNet takes the residuals of a ControlNet off these lists, and a second pass needs them again
            residuals = None if control is None else {name: list(given) for name, given in control.items()}
            return executor(x, t, c_concat, tokens, residuals, _of_pass(options, next(passes)), **others)

        call = ModelCall(x, t, c_crossattn, positive_rows(options, len(x), x.device))
        return edit(Modules(executor.class_obj.diffusion_model), call, forward, strength)

    return around


def _of_pass(options: dict[str, Any], number: int) -> dict[str, Any]:
    """The options of one of several passes of a call: what caches a prompt's result by its id (EasyCache) must not take
    that of one pass for another's."""
    if number == 0 or "uuids" not in options:
        return options
    return {**options, "uuids": [(prompt, number) for prompt in options["uuids"]]}
