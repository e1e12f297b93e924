"""Edits that the published code of others wrote: SPM's adapters, and the edited weights of ESD and UCE.

SPM (arXiv 2312.16145, github.com/Con6924/SPM): low-rank pairs `lora_unet_<layer>.lora_up.weight`, `.lora_down.weight`,
`.alpha`, and metadata `prompts` (the erased ones, by commas), `rank` and `alpha`. ESD (arXiv 2303.07345,
github.com/rohitgandikota/erasing) and UCE (arXiv 2308.14761, github.com/rohitgandikota/unified-concept-editing): the whole
weights of the edited layers, `<layer>.weight` and `.bias`, without metadata. `<layer>` is diffusers' name of a UNet's
layer, which only the MODEL that the edit is applied to can translate.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NoReturn

from ..files import file_head, read_tensors
from ..layers import PLAIN
from . import METADATA_KEY, ErasedUNet, Provenance

FOREIGN = "foreign"
"""The kind of an edit that becomes one of weights only when its MODEL is known."""
_SPM_KEY = re.compile(r"lora_unet_(down_blocks|mid_block|up_blocks)_\w+\.(lora_up\.weight|lora_down\.weight|alpha)")
_BLOCK = r"(down_blocks|mid_block|up_blocks)\.\S+"
_UCE_KEY = re.compile(rf"{_BLOCK}\.attn2\.to_[kv]\.weight")
_ESD_KEY = re.compile(rf"({_BLOCK}|conv_in|conv_out|time_embedding\.\S+|add_embedding\.\S+)\.(weight|bias)")
_NORM = re.compile(r"norm\w*\.(weight|bias)$")
_ESD_NAME = re.compile(r"esd-(.+)-from-(.+)-esd\w+")
_OTHERS = (
    (re.compile(r"(context_embedder|.*text_embedder\.linear_1|caption_projection\S*)\.weight"), "UCE's edit of the layers "
     "behind the text encoders of Flux or HiDream, which this pack does not edit"),
    (re.compile(r"(model\.diffusion_model|first_stage_model|cond_stage_model|conditioner)\..*"), "a whole checkpoint: use "
     "Load Checkpoint"),
    (re.compile(r".*(conv_norm_out|time_embedding\.linear_1)\.(weight|bias)"), "a whole UNet: use Load Diffusion Model"),
    (re.compile(r".*\.(lora_(up|down)\.weight|lora_[AB]\S*\.weight|alpha|diff|diff_b|lokr_\w+|hada_\w+)"), "a plain LoRA: "
     "use Load LoRA"),
)  # fmt: skip


def recognised(names: Iterable[str], metadata: Mapping[str, str], stem: str = "") -> str | None:
    """`spm`, `esd` or `uce`, if these are the tensors of such a file, else None. ESD's strictest variant and UCE change the
    same layers: the name of the file tells which."""
    names = list(names)
    if not names:
        return None
    if {"prompts", "rank", "alpha"} <= set(metadata) and all(_SPM_KEY.fullmatch(name) for name in names):
        return "spm"
    if any(_NORM.search(name) for name in names) or not all(_ESD_KEY.fullmatch(name) for name in names):
        return None
    return "uce" if all(_UCE_KEY.fullmatch(name) for name in names) and not _ESD_NAME.fullmatch(stem) else "esd"


def looks_foreign(head: bytes) -> bool:
    """True if a file's head (`files.file_head`) is that of somebody else's format. Never raises: any file may be asked."""
    may_be = b'.to_k.weight"' in head or (b'"lora_unet_' in head and b'"prompts"' in head)
    return may_be and _named(head) is not None


def _named(head: bytes) -> str | None:
    try:
        entries = json.loads(head)
        metadata = entries.pop("__metadata__", {})
        return recognised(entries, metadata)
    except (ValueError, AttributeError, TypeError, RecursionError):
        return None


def load_foreign(path: Path) -> ErasedUNet | None:
    """The edit in a file of others, or None for a file of ours or one that is damaged. Raises ValueError, naming the file
    and saying what it is, if it is neither."""
    try:
        head = file_head(path, 1 << 27)
    except OSError:
        return None
    if f'"{METADATA_KEY}"'.encode() in head:
        return None
    tensors, metadata = read_tensors(path)
    method = recognised(tensors, metadata, path.stem)
    if method is None:
        _refuse(path, list(tensors))
    for name, value in tensors.items():
        if value.dtype not in PLAIN or not bool(value.isfinite().all()):
            raise ValueError(f"{path}: the tensor {name!r} of this {method.upper()} file is of type {value.dtype} or holds "
                             f"NaN or infinity; get the original file")  # fmt: skip
    name = _ESD_NAME.fullmatch(path.stem)
    targets = [name[1].replace("_", " ")] if name else metadata.get("prompts", path.stem).split(",")
    pairs = tuple((target.strip(), "") for target in targets)
    return ErasedUNet(tensors, Provenance(method, dict(metadata), pairs, (), 0, "", kind=FOREIGN))


def _refuse(path: Path, names: list[str]) -> NoReturn:
    what = next((what for form, what in _OTHERS if any(form.fullmatch(name) for name in names)), "of an unknown format")
    raise ValueError(f"{path} is no erased UNet (its metadata has no {METADATA_KEY!r} entry); it is {what}")
