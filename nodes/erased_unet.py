"""Apply, load and save an erased UNet."""

from __future__ import annotations

import functools
import logging
import os
import unicodedata
from pathlib import Path

from comfy_api.latest import io, ui

from ..erasure_core.erased_unet import METADATA_KEY, ErasedUNet, load_erased_unet, save_erased_unet
from ..erasure_core.fingerprint import same_checkpoint
from . import host
from .base_model import fingerprint
from .erase import CATEGORY
from .types import ErasedUNetType

FOLDER_KIND = "erased_unets"
LONGEST_NAME = 200


def apply(model: object, erased: ErasedUNet, strength: float, node_id: str | None = None) -> object:
    """A clone of `model` with the edit at `strength`; strength 0 is the model itself.

    Raises ValueError if the edit was made for another model family. Another checkpoint of the same family is a warning.
    """
    family = host.family_of(model)
    if family != erased.provenance.family:
        raise ValueError(
            f"this erased UNet was made for {erased.provenance.family} models, the MODEL is {family}; "
            f"load a {erased.provenance.family} checkpoint or erase the concept from this one"
        )
    if not same_checkpoint(erased.provenance.fingerprint, fingerprint(model)):
        warning = "made on another checkpoint of this family: check that the concept is gone"
        logging.warning("Apply Erased UNet: %s", warning)
        host.send_text(warning, node_id)
    if strength == 0:
        return model.clone()
    return host.patched(model, erased, strength)


def safe_prefix(prefix: str) -> Path:
    """The file name prefix as a relative path. Raises ValueError if it leaves the output folder, or is no name that every
    file system takes."""
    if any(unicodedata.category(letter) == "Cc" for letter in prefix.strip()):
        raise ValueError(
            f"the file name {prefix!r} holds a control character; type it anew, as one line of plain letters"
        )
    path = Path(prefix.strip().replace("\\", "/"))
    windows_drive = len(prefix) > 1 and prefix[1] == ":"
    if not path.name or path.is_absolute() or ".." in path.parts or windows_drive:
        raise ValueError(
            f"the file name {prefix!r} is empty or leads out of the output folder; give a plain name like "
            f"'erased_circle' or 'shapes/erased_circle'"
        )
    longest = max(len(part.encode()) for part in path.parts)
    if longest > LONGEST_NAME:
        raise ValueError(
            f"the file name {prefix[:40]!r}... has a part of {longest} bytes; give one of at most {LONGEST_NAME}, "
            f"as file systems take no more than 255 with the number and the ending"
        )
    return path


def next_file(folder: Path, prefix: Path, ending: str = ".safetensors") -> Path:
    """The first free `<prefix>_00001_<ending>` in `folder`."""
    number = 1
    while (path := folder / prefix.parent / f"{prefix.name}_{number:05}_{ending}").exists():
        number += 1
    return path


@functools.lru_cache(maxsize=4096)
def _is_ours(path: str, modified: float, size: int) -> bool:
    """True if the header of a file has our metadata; `modified` and `size` only make a changed file a new question."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return f'"{METADATA_KEY}"'.encode() in file.read(min(length, 1 << 20))


def available() -> list[str]:
    """Names of erased UNets that ComfyUI's folders hold: weight edits among the LoRAs, and our own folder kind."""
    names = []
    for kind in ("loras", FOLDER_KIND):
        for name in host.file_names(kind):
            path = host.file_path(kind, name)
            if not name.endswith(".safetensors") or path is None:
                continue
            status = os.stat(path)
            if kind == FOLDER_KIND or _is_ours(path, status.st_mtime, status.st_size):
                names.append(name)
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
            description="Loads an erased UNet that Save Erased UNet wrote. Only safetensors files are read.",
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
        return io.NodeOutput(load_erased_unet(Path(_find(name))))


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
                ErasedUNetType.Input("erased_unet", tooltip="What to save."),
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
        edits = {safe_prefix(filename_prefix): erased_unet}
        if erased_unet.key is not None:
            edits[safe_prefix(f"{filename_prefix.strip()}_key")] = erased_unet.key
        text = "\n".join(f"saved {_save(edit, prefix)}" for prefix, edit in edits.items())
        host.send_text(text, cls.hidden.unique_id)  # the browser shows this; what `ui` says is only in the history
        return io.NodeOutput(ui=ui.PreviewText(text))


def _save(erased: ErasedUNet, prefix: Path) -> Path:
    kind = "loras" if erased.provenance.kind == "weights" else FOLDER_KIND
    path = next_file(Path(host.output_folder()) / kind, prefix)
    save_erased_unet(erased, path)
    return path
