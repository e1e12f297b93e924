"""Apply, load and save an erased UNet."""

from __future__ import annotations

import functools
import logging
import os
from pathlib import Path
from typing import Any

from comfy_api.v0_0_2 import io, ui

from ..erasure_core.erased_unet import METADATA_KEY, WEIGHTS, ErasedUNet, load_erased_unet, save_as_new
from ..erasure_core.erased_unet.fingerprint import same_checkpoint
from ..erasure_core.erased_unet.foreign import FOREIGN, load_foreign, looks_foreign
from ..erasure_core.files import file_head
from ..erasure_core.method import check_layers, check_parts
from . import host
from .inputs.types import CATEGORY, ErasedUNetType
from .outputs.file_names import numbered, safe_prefix, seen

FOLDER_KIND = "erased_unets"
HEAD = 1 << 20
"""How many bytes of a file are read to see what it is."""


def apply(model: Any, erased: ErasedUNet, strength: float, node_id: str | None = None) -> Any:
    """A clone of `model` with the edit at `strength`; strength 0 is the model itself.

    Raises ValueError if the edit was made for another model family. Another checkpoint of the same family is a warning.
    """
    family = host.family_of(model)
    if erased.provenance.kind == FOREIGN:
        erased, note = host.translated(model, erased)
        logging.info("Apply Erased UNet: %s", note)
        host.send_text(note, node_id)
        return host.patched(model, erased, strength) if strength else model.clone()

    if family != erased.provenance.family:
        raise ValueError(
            f"this erased UNet was made for {erased.provenance.family} models, the MODEL is {family}; "
            f"load a {erased.provenance.family} checkpoint or erase the concept from this one"
        )
    if not same_checkpoint(erased.provenance.fingerprint, host.fingerprint(model)):
        warning = "made on another checkpoint of this family: check that the concept is gone"
        logging.warning("Apply Erased UNet: %s", warning)
        host.send_text(warning, node_id)

    if strength == 0:
        return model.clone()
    # after the warning: what cannot be applied at all is an error, and only where it would be applied
    check_parts(erased)
    check_layers(erased, dict(model.model.diffusion_model.named_modules()))
    return host.patched(model, erased, strength)


@functools.cache
def _is_an_edit(path: str, modified: float, size: int, ours_only: bool) -> bool:
    """True for a readable file with our metadata, or with that of a format that `foreign` reads, or for any readable one
    unless `ours_only`; `modified` and `size` only make a changed file a new question."""
    try:
        head = file_head(Path(path), HEAD)
    except OSError as error:
        logging.warning("Load Erased UNet leaves out a file that cannot be read: %s", error)
        return False
    return not ours_only or f'"{METADATA_KEY}"'.encode() in head or looks_foreign(head)


def available() -> list[str]:
    """Names of erased UNets that ComfyUI's folders hold: weight edits among the LoRAs, and our own folder kind. A file that
    cannot be read is left out: this is asked for while ComfyUI loads the pack."""
    names = []
    for kind in ("loras", FOLDER_KIND):
        for name in host.file_names(kind):
            path = host.file_path(kind, name) if name.endswith(".safetensors") else None
            if path is None:
                continue
            try:
                status = os.stat(path)
            except OSError:  # gone since ComfyUI listed it
                continue
            if _is_an_edit(path, status.st_mtime, status.st_size, kind != FOLDER_KIND):
                names.append(name)
                seen(Path(path))
    return list(dict.fromkeys(names))


class ApplyErasedUNet(io.ComfyNode):
    """Apply an edit to a model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See the class."""
        return io.Schema(
            node_id="ErasureApplyErasedUNet",
            display_name="Apply Erased UNet",
            category=CATEGORY,
            description="Applies an erased UNet to a model of the same family, at any strength. The model is not changed.",
            search_aliases=["apply erasure", "erased"],
            inputs=[
                io.Model.Input("model", tooltip="The model to apply the edit to; it stays as it is."),
                ErasedUNetType.Input("erased_unet", tooltip="From Erase Concept or Load Erased UNet."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.05,
                    tooltip="1 is the edit as it was made, 0 the untouched model. Above 1 erases harder and hurts more; below "
                    "0 asks for more of the concept, best between -1 and 0.",
                ),
            ],
            outputs=[io.Model.Output(display_name="MODEL", tooltip="A clone of the model with the edit applied.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model, erased_unet: ErasedUNet, strength: float) -> io.NodeOutput:
        """Apply the edit to a clone."""
        return io.NodeOutput(apply(model, erased_unet, strength, cls.hidden.unique_id))


class LoadErasedUNet(io.ComfyNode):
    """Load an edit from a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See the class."""
        return io.Schema(
            node_id="ErasureLoadErasedUNet",
            display_name="Load Erased UNet",
            category=CATEGORY,
            description="Loads an erased UNet that Save Erased UNet wrote, or that the published code of SPM, ESD or UCE did. "
            "Only safetensors files are read.",
            search_aliases=["load erasure", "erased"],
            inputs=[
                io.Combo.Input(
                    "name",
                    options=available(),
                    tooltip="Erased UNets in models/loras, output/loras, models/erased_unets and output/erased_unets.",
                )
            ],
            outputs=[ErasedUNetType.Output(display_name="ERASED_UNET", tooltip="The edit, for Apply Erased UNet.")],
        )

    @classmethod
    def fingerprint_inputs(cls, name: str) -> str:
        """A file that was written anew is loaded anew."""
        path = _find(name)
        return f"{path}:{os.stat(path).st_mtime_ns}"

    @classmethod
    def execute(cls, name: str) -> io.NodeOutput:
        """Read and check the file."""
        return io.NodeOutput(loaded(Path(_find(name))))


def loaded(path: Path) -> ErasedUNet:
    """The edit in a file, ours or one that `foreign` reads, checked as far as it can be without a model. Raises
    ValueError, naming the file."""
    foreign = load_foreign(path)
    if foreign is not None:
        return foreign
    erased = load_erased_unet(path)
    try:
        check_parts(erased)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return erased


def _find(name: str) -> str:
    for kind in ("loras", FOLDER_KIND):
        path = host.file_path(kind, name)
        if path is not None:
            return path
    raise ValueError(f"there is no erased UNet named {name!r}; save one first, or press R to refresh the list")


class SaveErasedUNet(io.ComfyNode):
    """Save an edit to a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See the class."""
        return io.Schema(
            node_id="ErasureSaveErasedUNet",
            display_name="Save Erased UNet",
            category=CATEGORY,
            description="Writes an erased UNet as one .safetensors file. Edits of weights go to output/loras, where the "
            "stock LoRA loader finds them too.",
            search_aliases=["save erasure", "export erased"],
            inputs=[
                ErasedUNetType.Input("erased_unet", tooltip="The edit to save."),
                io.String.Input(
                    "filename_prefix",
                    default="erased/concept",
                    tooltip="Name of the file, without number and ending; a folder before it is made if need be.",
                ),
            ],
            outputs=[],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, erased_unet: ErasedUNet, filename_prefix: str) -> io.NodeOutput:
        """Write the file under the next free number and show its path."""
        if erased_unet is None:
            raise ValueError(
                "there is no erased UNet to save: it comes from a node whose own erased_unet is not linked; link it there"
            )
        if erased_unet.provenance.kind == FOREIGN:
            raise ValueError(
                f"this edit was read from a file of {erased_unet.provenance.method.upper()}'s own code, and no other file is "
                f"made of it; keep that file, or save what Erase Concept makes"
            )
        prefix = safe_prefix(filename_prefix)
        edits = {prefix: erased_unet}
        if erased_unet.key is not None:
            edits[prefix.with_name(f"{prefix.name}_key")] = erased_unet.key
        try:
            text = "\n".join(f"saved {_save(edit, prefix)}" for prefix, edit in edits.items())
        except OSError as error:
            raise OSError(error.errno, f"{error.strerror}. {KEPT}") from error
        host.send_text(text, cls.hidden.unique_id)  # the browser shows this; `ui` is only in the history
        return io.NodeOutput(ui=ui.PreviewText(text))


KEPT = (
    "The erasure itself is not lost: ComfyUI keeps it as long as the nodes before this one are not changed. Mend that and "
    "press Run again; only the saving is repeated"
)


def _save(erased: ErasedUNet, prefix: Path) -> Path:
    kind = "loras" if erased.provenance.kind == WEIGHTS else FOLDER_KIND
    path = save_as_new(erased, numbered(Path(host.output_folder()) / kind, prefix))
    seen(path)
    return path
