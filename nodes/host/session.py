"""A MODEL and CLIP made ready for an erasure, and left as they were."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import comfy.model_management
import comfy.utils
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ...erasure_core.families import family_named
from ...erasure_core.layers import shape_of
from .denoiser import ComfyDenoiser
from .linked import check_linked, check_size
from .services import load_fully


def differentiable_weights(model: nn.Module) -> None:
    """Replace weights made under inference mode, which autograd refuses, by equal copies; values stay as they were."""
    for name, parameter in list(model.named_parameters()):
        if parameter.is_inference():
            comfy.utils.set_attr_param(model, name, parameter.data)
    for name, buffer in list(model.named_buffers()):
        if buffer.is_inference():
            comfy.utils.set_attr_buffer(model, name, buffer.clone())


def _norms_read_copies(network: nn.Module) -> list[RemovableHandle]:
    """Give every LayerNorm a copy of what it reads, if a gradient goes through it: the network changes the original."""

    def copy(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        return (inputs[0].clone(), *inputs[1:]) if inputs[0].requires_grad else None

    return [norm.register_forward_pre_hook(copy) for norm in network.modules() if isinstance(norm, nn.LayerNorm)]


def _patches_keep_gradients(patcher: Any) -> None:
    """Give the patches of blocks on this clone copies of what they read, also for their gradients: some write into it
    (FreeU), which autograd refuses."""
    patches = patcher.model_options.get("transformer_options", {}).get("patches", {})

    def around(patch: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            copies = [value.clone() if torch.is_tensor(value) else value for value in given]
            with torch.autograd.graph.saved_tensors_hooks(torch.clone, lambda saved: saved):
                return patch(*copies)

        return call

    for name in [name for name in patches if "_block_patch" in name]:
        patches[name] = [patch if hasattr(patch, "to") else around(patch) for patch in patches[name]]


_GUIDANCE = tuple(f"sampler_{name}_function" for name in ("cfg", "pre_cfg", "post_cfg", "calc_cond_batch"))


def _what_is_left_out(patcher: Any) -> list[str]:
    """Take the wrappers that answer from a cache off this clone, and say what of the MODEL does not act while learning.

    A cache skips sampling steps that are like the last one, and keeps what a step computed, gradients and all, in an
    object that all clones of the MODEL share.
    """
    options, notes = patcher.model_options, []
    found = {}
    for wrappers in (patcher.wrappers, options.get("transformer_options", {}).get("wrappers", {})):
        for by_key in wrappers.values():
            for key in [key for key in by_key if "cache" in str(key).casefold()]:
                found[key] = by_key.pop(key)
    if found:
        notes.append(f"learned without the MODEL's {', '.join(found)}, which skips steps; the result has it again")
    if any(name in options for name in _GUIDANCE):
        notes.append("learned without what nodes on this MODEL do to the guidance; the result has it again")
    return notes


def open_session(
    model: Any, clip: Any, width: int, height: int, encoded: dict[str, dict[str, Tensor]] | None = None
) -> AbstractContextManager[ComfyDenoiser]:
    """A denoiser that can be trained on, on a clone of `model`; afterwards everything is as it was.

    `encoded` lets several runs with one CLIP share what it encoded.

    Raises ValueError if MODEL or CLIP is empty, the size does not fit the latents, or the two do not belong together.
    """
    return open_session_as(ComfyDenoiser, model, clip, width, height, encoded)


D = TypeVar("D", bound=ComfyDenoiser)


@contextmanager
def open_session_as(
    kind: type[D], model: Any, clip: Any, width: int, height: int, encoded: dict[str, dict[str, Tensor]] | None = None
) -> Iterator[D]:
    """`open_session` with a denoiser of another kind."""
    check_linked(model, clip)
    check_size(model, width, height)
    was_training = comfy.model_management.in_training
    with torch.inference_mode(False), torch.enable_grad():
        # dynamic memory moves weights while the network runs; a backward pass needs them where they were
        patcher = model.clone(disable_dynamic=True)
        hooks = []
        try:
            notes = _what_is_left_out(patcher)
            _patches_keep_gradients(patcher)
            load_fully(patcher)
            patcher.pre_run()  # ComfyUI's sampler calls it too: patches look up the running MODEL from here on
            if family_named(type(patcher.model.model_config).__name__).in_place:
                hooks = _norms_read_copies(patcher.model.diffusion_model)
            # fused kernels have no backward pass; this switches them off
            comfy.model_management.in_training = True
            differentiable_weights(patcher.model)
            denoiser = kind(patcher, clip, width, height, {} if encoded is None else encoded, notes)
            _check_clip(denoiser)
            yield denoiser
        finally:
            comfy.model_management.in_training = was_training
            for hook in hooks:
                hook.remove()
            patcher.cleanup()
            comfy.model_management.soft_empty_cache()


def _check_clip(denoiser: ComfyDenoiser) -> None:
    """Raise ValueError if the text is not as wide as the model reads it."""
    width = denoiser.encode([""]).tokens.shape[-1]
    names = re.compile(family_named(denoiser.family).text_in)
    reads = next((shape_of(layer)[1] for name, layer in denoiser.modules().items() if names.fullmatch(name)), width)
    if width != reads:
        raise ValueError(
            f"CLIP and MODEL do not belong together: this CLIP gives text of width {width}, the {denoiser.family} MODEL "
            f"reads {reads}. Take both from one checkpoint"
        )
