"""The erased UNet: one `.safetensors` file with the keys of ComfyUI's own LoRA code, and one JSON of metadata."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..files import check_type, check_version, packed, read_tensors, write_new, write_whole
from ..layers import PLAIN

FORMAT_VERSION = 1
METADATA_KEY = "erasure"
PREFIX = "diffusion_model."
HOOK_PREFIX = "erasure."
PACK_VERSION = "0.1.0"
WEIGHTS, HOOK = KINDS = ("weights", "hook")
UP, DOWN, DIFF, DIFF_BIAS = "lora_up.weight", "lora_down.weight", "diff", "diff_b"
_WEIGHT_KEY = re.compile(rf"{re.escape(PREFIX)}(.+)\.({re.escape(UP)}|{re.escape(DOWN)}|{DIFF_BIAS}|{DIFF}|alpha)")
_HALVES = ((f".{UP}", f".{DOWN}"), (f".{DOWN}", f".{UP}"), (".up", ".down"), (".down", ".up"))


@dataclass(frozen=True)
class Provenance:
    """The origin of an erased UNet: all that is needed to make it again."""

    method: str
    settings: Mapping[str, Any]
    targets: tuple[tuple[str, str], ...]
    retain: tuple[str, ...]
    seed: int
    family: str
    fingerprint: str = ""
    kind: str = WEIGHTS
    format_version: int = FORMAT_VERSION
    pack_version: str = PACK_VERSION
    scores: Mapping[str, Any] = field(default_factory=dict)
    inside: tuple[str, ...] = ()
    """The targets that are parts of their anchors (`concepts.ConceptPair.inside`)."""


@dataclass(frozen=True)
class ErasedUNet:
    """An edit of a diffusion model: tensors by key, and their provenance. It holds no reference to the model.

    `key` is a second edit, in a file of its own, that brings the concept back when it is applied on top."""

    tensors: Mapping[str, Tensor]
    provenance: Provenance
    key: ErasedUNet | None = None

    def weights(self) -> dict[str, Tensor]:
        """The tensors that ComfyUI's LoRA code reads."""
        return {key: value for key, value in self.tensors.items() if key.startswith(PREFIX)}

    def layers(self) -> dict[str, dict[str, Tensor]]:
        """The tensors of `weights` by layer, there by suffix (`UP`, `DOWN`, `DIFF`, `DIFF_BIAS`, alpha)."""
        by_layer: dict[str, dict[str, Tensor]] = {}
        for key, value in self.weights().items():
            layer, suffix = _layer_and_suffix(key)
            by_layer.setdefault(layer, {})[suffix] = value
        return by_layer

    def parts(self) -> dict[str, Tensor]:
        """The tensors that act at inference, without their prefix."""
        return {key.removeprefix(HOOK_PREFIX): v for key, v in self.tensors.items() if key.startswith(HOOK_PREFIX)}

    def is_zero(self) -> bool:
        """True if applying this edit would change nothing."""
        edits = [value for key, value in self.tensors.items() if key.endswith((".diff", ".diff_b", ".lora_up.weight"))]
        return not self.parts() and all(not bool(value.any()) for value in edits)

    def not_finite(self) -> str | None:
        """The key of a tensor that holds NaN or infinity, or None if there is none."""
        return next((key for key, value in self.tensors.items() if not bool(value.isfinite().all())), None)

    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(value.numel() * value.element_size() for value in self.tensors.values())


def _layer_and_suffix(key: str) -> tuple[str, str]:
    match = _WEIGHT_KEY.fullmatch(key)
    if match is None:
        raise ValueError(f"unknown tensor {key!r}")
    return match[1], match[2]


def weight_edit(deltas: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Layer names of `deltas.Deltas.export` -> keys of the file."""
    return {f"{PREFIX}{name}": value.cpu().contiguous() for name, value in deltas.items()}


def save_erased_unet(erased: ErasedUNet, path: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write the file in one step: a full disk or a crash leaves what was at `path` before.

    Raises OSError, naming the path and what to do, if it cannot be written.
    """
    write_whole(path, _packed(erased, dtype))


def save_as_new(erased: ErasedUNet, paths: Iterable[Path]) -> Path:
    """Write the file under the first of `paths` that is free (`files.write_new`); the path taken."""
    return write_new(paths, _packed(erased, torch.float32))


def _packed(erased: ErasedUNet, dtype: torch.dtype) -> bytes:
    tensors = {key: value.to(dtype) if value.is_floating_point() else value for key, value in erased.tensors.items()}
    return packed(tensors, {METADATA_KEY: json.dumps(asdict(erased.provenance), sort_keys=True)})


def load_erased_unet(path: Path) -> ErasedUNet:
    """Read and check a file. Raises ValueError, naming the file and what is wrong with it, if it is truncated, is no
    erased UNet, was written by a newer version, or its tensors are not a whole edit (`check_tensors`)."""
    tensors, metadata = read_tensors(path)
    if METADATA_KEY not in metadata:
        raise ValueError(
            f"{path} is no erased UNet: its metadata has no {METADATA_KEY!r} entry. Plain LoRA files are for Load LoRA"
        )
    try:
        provenance = _provenance(json.loads(metadata[METADATA_KEY]))
    except (KeyError, ValueError, RecursionError) as error:
        reason = f"it has no field {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"{path}: its erasure metadata cannot be read: {reason}") from error
    erased = ErasedUNet(tensors, provenance)
    try:
        check_tensors(erased)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; the file is damaged or from another program, get the original") from error
    return erased


_FIELDS: Mapping[str, tuple[type, str]] = {
    "method": (str, "the name of a method"),
    "settings": (dict, "the settings by name"),
    "targets": (list, "a list of [target, anchor]"),
    "retain": (list, "a list of texts"),
    "inside": (list, "a list of texts"),
    "seed": (int, "a whole number"),
    "family": (str, "the name of a model family"),
    "fingerprint": (str, "a text"),
    "kind": (str, f"one of {', '.join(KINDS)}"),
    "pack_version": (str, "a text"),
    "scores": (dict, "figures by name"),
}


def _provenance(fields: Any) -> Provenance:
    """The provenance that a file's metadata says. Raises KeyError for a field that must be there, ValueError for a value
    of another type."""
    check_type("text", fields, dict, "an object of fields")
    check_version(fields, FORMAT_VERSION)
    known = {entry.name: fields[entry.name] for entry in dataclass_fields(Provenance) if entry.name in fields}
    for name in ("method", "settings", "targets", "retain", "seed", "family"):
        known[name] = fields[name]
    for name, (kind, expected) in _FIELDS.items():
        if name in known:
            check_type(name, known[name], kind, expected)
    if known.get("kind", WEIGHTS) not in KINDS:
        raise ValueError(f"its kind is {known['kind']!r}; this pack knows {', '.join(KINDS)}. Update the pack")

    # JSON has lists where the fields are tuples
    for pair in known["targets"]:
        check_type("targets", pair, list, "a list of [target, anchor]")
        if [type(text) for text in pair] != [str, str]:
            raise ValueError(f"its targets hold {str(pair)[:60]}, and should hold pairs of texts, [target, anchor]")
    for name in {"retain", "inside"} & set(known):
        for line in known[name]:
            check_type(name, line, str, "a list of texts")
        known[name] = tuple(known[name])
    known["targets"] = tuple(tuple(pair) for pair in known["targets"])
    return Provenance(**known)


def check_tensors(erased: ErasedUNet) -> None:
    """Raise ValueError, naming the tensor, if an edit has none of its kind, one that is unknown, not finite, of a type that
    nothing computes with, or half of a change: ComfyUI's LoRA code would pass over most of these in silence."""
    tensors, kind = erased.tensors, erased.provenance.kind
    for key, value in tensors.items():
        if not key.startswith(HOOK_PREFIX):
            _layer_and_suffix(key)
        if value.dtype not in PLAIN:
            raise ValueError(f"the tensor {key!r} is of type {value.dtype}, and should be float32, float16 or bfloat16")
    hook_tensors = erased.parts()
    if not (hook_tensors if kind == HOOK else erased.weights()):
        raise ValueError(f"it holds no tensor of an edit of kind {kind!r}")
    if hook_tensors and kind != HOOK:
        raise ValueError(
            f"the tensor {HOOK_PREFIX + next(iter(hook_tensors))!r} acts while sampling, and the file's kind is {kind!r}"
        )

    # ComfyUI would load what follows without a word, and draw noise or apply half of the edit
    broken = erased.not_finite()
    if broken is not None:
        raise ValueError(f"the tensor {broken!r} holds NaN or infinity")
    for key in tensors:
        for half, other in _HALVES:
            if key.endswith(half) and key.removesuffix(half) + other not in tensors:
                raise ValueError(f"the tensor {key!r} is without its other half {key.removesuffix(half) + other!r}")
    for layer, by_suffix in erased.layers().items():
        trouble = _contradiction(by_suffix)
        if trouble:
            raise ValueError(f"the layer {layer!r} {trouble}")


def _contradiction(change: Mapping[str, Tensor]) -> str | None:
    """Why a layer's tensors are no one change of it, or None."""
    if set(change) == {"alpha"}:
        return "has an alpha and no change"
    if "alpha" in change and UP not in change:
        return "has an alpha without a low-rank pair"
    if UP in change and DIFF in change:
        return f"has a low-rank pair and a {DIFF}, of which ComfyUI would apply one"
    if UP in change:
        up, down = change[UP], change[DOWN]
        if up.ndim < 2 or down.ndim < 2 or up.shape[1] != len(down) or not len(down):
            return f"has a low-rank pair of shapes {tuple(up.shape)} and {tuple(down.shape)}, which share no rank"
    if "alpha" in change and change["alpha"].numel() != 1:
        return f"has an alpha of shape {tuple(change['alpha'].shape)}, and should have one number"
    if "alpha" in change and not bool(change["alpha"]):
        return "has an alpha of 0, which makes its change zero"
    return None


def misfit(change: Mapping[str, Tensor], weight: Tensor, bias: Tensor | None) -> str | None:
    """Why a layer's tensors (`ErasedUNet.layers`) do not fit its weight (out, in, ...) and bias (out,), or None.

    A low-rank pair may be flattened, as LoRA files for 1x1 convolutions often are.
    """
    wanted = tuple(weight.shape)
    shapes = {DIFF: wanted, DIFF_BIAS: None if bias is None else tuple(bias.shape)}
    for suffix, shape in shapes.items():
        if suffix in change and change[suffix].shape != shape:
            return f"its {suffix} has shape {tuple(change[suffix].shape)}, the layer wants {shape}"
    if UP not in change:
        return None
    up, down = change[UP], change[DOWN]
    fits = up.ndim > 1 and down.ndim > 1 and up.flatten(1).shape == (wanted[0], len(down))
    if (
        fits and down.shape[1:].numel() == weight.shape[1:].numel()
    ):  # shapes alone: a quantised weight cannot be indexed
        return None
    return f"its low-rank pair has shapes {tuple(up.shape)} and {tuple(down.shape)}, the weight has {wanted}"
