"""Which layers a layer group means, per model family: the only table of names."""

from __future__ import annotations

import re
from collections.abc import Iterable

GROUPS = {
    "cross_attention_kv": "keys and values of cross-attention (ESD's esd-x-strict): only how the text is read",
    "cross_attention": "all of cross-attention (esd-x, xattn)",
    "self_attention": "self-attention (selfattn)",
    "non_cross_attention": "everything but cross-attention and time embedding (esd-u, noxattn): for nudity and styles",
    "all": "every layer but the time embedding and the output (notime)",
}

_UNET_FIXED = r"(time_embed|label_emb|out)\."
_UNET = {
    "cross_attention_kv": r".*\.attn2\.to_[kv]",
    "cross_attention": r".*\.attn2\.(to_[qkv]|to_out\.0)",
    "self_attention": r".*\.attn1\.(to_[qkv]|to_out\.0)",
    "non_cross_attention": rf"(?!{_UNET_FIXED})(?!.*\.attn2\.).*",
    "all": rf"(?!{_UNET_FIXED}).*",
}
FAMILIES: dict[str, dict[str, str]] = {"SD15": _UNET, "SD20": _UNET, "SD21UnclipL": _UNET, "SDXL": _UNET}


def select(family: str, group: str, names: list[str]) -> list[str]:
    """The names, out of a model's Linear and convolution layers, that belong to `group` in `family`.

    Raises ValueError, naming what there is, for an unknown family or group and for a group without any layer.
    """
    if family not in FAMILIES:
        raise ValueError(
            f"models of family {family!r} are not supported yet; supported are {', '.join(FAMILIES)}. "
            f"Load a checkpoint of one of these"
        )
    if group not in GROUPS:
        raise ValueError(f"unknown layer group {group!r}; choose one of {', '.join(GROUPS)}")
    pattern = FAMILIES[family].get(group)
    chosen = [name for name in names if pattern and re.fullmatch(pattern, name)]
    if not chosen:
        raise ValueError(
            f"this {family} model has no layer of the group {group!r}; choose another layer group in the method's settings"
        )
    return chosen


def blocks(family: str, kind: str, names: Iterable[str]) -> list[str]:
    """The names, out of all modules of a UNet, of its blocks of a kind, in the order in which they are run.

    `transformer`: whole transformer blocks, whose output is the residual stream; `encoder`: the last module of each
    encoder block, whose output is also a skip; `decoder`: the first module of each decoder block, whose input is the
    residual stream and, in its last channels, a skip (the last skip first). Raises ValueError for an unknown kind or
    a family without such blocks.
    """
    if family not in FAMILIES or FAMILIES[family] is not _UNET:
        raise ValueError(f"models of family {family!r} have no UNet blocks; choose a method that edits layers only")
    names = list(names)
    order = {"input_blocks": 0, "middle_block": 1, "output_blocks": 2}
    if kind == "transformer":
        found = [name.removesuffix(".transformer_blocks") for name in names if name.endswith(".transformer_blocks")]
        return sorted(found, key=lambda name: order[name.split(".")[0]])
    if kind == "decoder":
        return [name for name in names if re.fullmatch(r"output_blocks\.\d+\.0", name)]
    if kind != "encoder":
        raise ValueError(f"unknown kind of block {kind!r}; choose transformer, encoder or decoder")
    parts = [name for name in names if re.fullmatch(r"input_blocks\.\d+\.\d+", name)]
    return list({name.rsplit(".", 1)[0]: name for name in parts}.values())
