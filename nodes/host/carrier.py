"""A MODEL that warns of the edits that it carries when it is saved, trained on, merged, extracted or compiled."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import comfy.model_management
import comfy_execution.utils
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import CallbacksMP, WrappersMP

from ...erasure_core.erased_unet import Provenance
from . import saving
from .services import send_text

KEY = "erasure."
"""The prefix of the keys of our wrappers and callbacks."""
_COMPILED = "torch.compile"


class Carrier(ModelPatcher):
    """Mixed into the class of a patched MODEL, by changing the class of that one clone.

    Only for what ComfyUI 0.30 has no callback for (`CallbacksMP` tells of cloning, loading, running and injecting): saving,
    merging, extracting and compiling. Its own classes and modules are not changed, and a plain MODEL is not touched.
    """

    _merged = False

    def state_dict_for_saving(self, *arguments: Any, **named: Any) -> Any:
        """Called by every node that writes a checkpoint."""
        _warn(self, saving.on_saving)
        return super().state_dict_for_saving(*arguments, **named)

    def get_key_patches(self, filter_prefix: str | None = None) -> Any:
        """Called by a merge for its second MODEL, with the prefix of the network; without one ComfyUI asks for itself."""
        if filter_prefix is not None:
            _warn(self, saving.on_lending)
        return super().get_key_patches(filter_prefix)

    def add_patches(self, patches: dict, *arguments: Any, **named: Any) -> Any:
        """Called by a merge on a clone of its first MODEL, weight by weight, with lists, which no LoRA gives."""
        if not self._merged and any(isinstance(patch, list) for patch in patches.values()):
            self._merged = True
            _warn(self, saving.on_merging)
        return super().add_patches(patches, *arguments, **named)

    def model_state_dict(self, filter_prefix: str | None = None) -> Any:
        """Called by the extraction of a LoRA, with the prefix of the network; without one ComfyUI asks for itself."""
        if filter_prefix is not None:
            _warn(self, saving.on_extracting)
        return super().model_state_dict(filter_prefix)

    def add_wrapper_with_key(self, wrapper_type: str, key: str, wrapper: Callable) -> None:
        """Called by Torch Compile, whose wrapper puts the compiled network in place for a call: ours have to come after."""
        super().add_wrapper_with_key(wrapper_type, key, wrapper)
        if (wrapper_type, key) == (WrappersMP.APPLY_MODEL, _COMPILED):
            wrappers = self.wrappers[wrapper_type]
            for ours in [name for name in wrappers if str(name).startswith(KEY)]:
                wrappers[ours] = wrappers.pop(ours)
            self.check_compiled()

    def check_compiled(self) -> None:
        """Say that the network is compiled, if it is. Raises RuntimeError if this torch cannot leave it uncompiled."""
        acting = saving.acting(self.get_attachment(saving.ATTACHMENT) or ())
        if not acting or not self.get_wrappers(WrappersMP.APPLY_MODEL, _COMPILED):
            return
        if not hasattr(torch.compiler, "set_stance"):
            raise RuntimeError(
                f"the erasure of {saving.names(acting)} acts while the model runs; on a compiled model it needs torch 2.6 "
                f"or newer, this is {torch.__version__}. Leave Torch Compile out, or update torch"
            )
        _warn(self, saving.on_compiling)


def _warn(model: Any, warning: Callable[[tuple[Provenance, ...]], str]) -> None:
    """Put a warning about what `model` carries into the log, and onto the node that is running."""
    text = warning(model.get_attachment(saving.ATTACHMENT))
    logging.warning("Concept Erasure: %s", text)
    running = comfy_execution.utils.get_executing_context()
    send_text(text, running.node_id if running else None)


def carry(clone: Any, provenance: Provenance) -> None:
    """Note on `clone` that it carries an edit from there now, and on all clones that ComfyUI makes of it. Also keeps
    ComfyUI from taking it for a plain MODEL with the same patches."""
    carried = clone.get_attachment(saving.ATTACHMENT) or ()
    clone.set_attachments(saving.ATTACHMENT, (*carried, provenance))
    if not carried:  # every clone gets a copy of its origin's callbacks
        clone.add_callback_with_key(CallbacksMP.ON_CLONE, f"{KEY}carrier", _as_carrier)
        clone.add_callback_with_key(CallbacksMP.ON_PRE_RUN, f"{KEY}carrier", _before_a_run)
    _as_carrier(None, clone)
    clone.check_compiled()


def _before_a_run(clone: Any) -> None:
    """Called before sampling, and by ComfyUI's trainer before it trains."""
    if comfy.model_management.in_training:
        _warn(clone, saving.on_training)


def _as_carrier(_origin: Any, clone: Any) -> None:
    """Called after `clone` was made: for another device, or without dynamic memory, ComfyUI makes it of another class."""
    if not isinstance(clone, Carrier):
        clone.__class__ = _carrier_class(type(clone))


@functools.cache
def _carrier_class(patcher_class: type) -> type:
    return type(patcher_class.__name__, (Carrier, patcher_class), {})
