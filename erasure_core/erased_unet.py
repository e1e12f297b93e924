"""The erased UNet: one `.safetensors` file with the keys of ComfyUI's own LoRA code, and one JSON of metadata."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from .files import check_version, read_tensors, write_whole

FORMAT_VERSION = 1
METADATA_KEY = "erasure"
PREFIX = "diffusion_model."
HOOK_PREFIX = "erasure."
PACK_VERSION = "0.1.0"
_KNOWN_SUFFIX = re.compile(r".*\.(diff|diff_b|lora_up\.weight|lora_down\.weight|alpha)")


@dataclass(frozen=True)
class Provenance:
    """Where an erased UNet comes from: all that is needed to run it again."""

    method: str
    settings: Mapping[str, Any]
    targets: tuple[tuple[str, str], ...]
    retain: tuple[str, ...]
    seed: int
    family: str
    fingerprint: str = ""
    kind: str = "weights"
    format_version: int = FORMAT_VERSION
    pack_version: str = PACK_VERSION
    scores: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ErasedUNet:
    """An edit of a diffusion model: tensors by key, and where they come from. It holds no reference to the model.

    `key` is a second edit, in a file of its own, that brings the concept back when it is applied on top."""

    tensors: Mapping[str, Tensor]
    provenance: Provenance
    key: ErasedUNet | None = None

    def weights(self) -> dict[str, Tensor]:
        """The tensors that ComfyUI's LoRA code reads."""
        return {key: value for key, value in self.tensors.items() if key.startswith(PREFIX)}

    def parts(self) -> dict[str, Tensor]:
        """The tensors that act at inference, without their prefix."""
        return {key.removeprefix(HOOK_PREFIX): v for key, v in self.tensors.items() if key.startswith(HOOK_PREFIX)}

    def is_zero(self) -> bool:
        """True if applying this edit would change nothing."""
        edits = [value for key, value in self.tensors.items() if key.endswith((".diff", ".diff_b", ".lora_up.weight"))]
        return not self.parts() and all(not bool(value.any()) for value in edits)

    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(value.numel() * value.element_size() for value in self.tensors.values())


def weight_edit(deltas: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Layer names of `adapters.Deltas.export` -> keys of the file."""
    return {f"{PREFIX}{name}": value.cpu().contiguous() for name, value in deltas.items()}


def save_erased_unet(erased: ErasedUNet, path: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write the file in one step: a full disk or a crash leaves what was at `path` before.

    Raises OSError, naming the path and what to do, if it cannot be written.
    """
    tensors = {key: value.to(dtype) if value.is_floating_point() else value for key, value in erased.tensors.items()}
    blob = save(tensors, metadata={METADATA_KEY: json.dumps(asdict(erased.provenance), sort_keys=True)})
    write_whole(path, blob)


def load_erased_unet(path: Path) -> ErasedUNet:
    """Read and check a file. Raises ValueError, naming the file and what is wrong with it, if it is truncated, is no
    erased UNet, or was written by a newer version."""
    tensors, metadata = read_tensors(path)
    if METADATA_KEY not in metadata:
        raise ValueError(
            f"{path} is no erased UNet: its metadata has no {METADATA_KEY!r} entry. Plain LoRA files are for Load LoRA"
        )
    try:
        fields = json.loads(metadata[METADATA_KEY])
        check_version(fields, FORMAT_VERSION)
        fields["targets"] = tuple(tuple(pair) for pair in fields["targets"])
        fields["retain"] = tuple(fields["retain"])
        known = {entry.name for entry in dataclass_fields(Provenance)}
        provenance = Provenance(**{name: value for name, value in fields.items() if name in known})
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: its erasure metadata cannot be read: {error}") from error
    foreign = [
        key
        for key in tensors
        if not key.startswith(HOOK_PREFIX) and not (key.startswith(PREFIX) and _KNOWN_SUFFIX.fullmatch(key))
    ]
    if foreign:
        raise ValueError(f"{path}: unknown tensor {foreign[0]!r}; the file is damaged or from another program")
    return ErasedUNet(tensors, provenance)
