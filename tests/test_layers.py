"""Layer groups: what is chosen, and what is said where nothing can be."""

from __future__ import annotations

import pytest
from concept_erasure.erasure_core.layers import blocks, select

NAMES = ["input_blocks.1.1.proj_in", "input_blocks.1.1.transformer_blocks.0.attn2.to_k", "time_embed.0", "out.2"]


@pytest.mark.parametrize(
    ("family", "group", "names", "message"),
    [
        ("Flux", "all", NAMES, "'Flux' are not supported yet; supported are SD15, .*SDXL. Load a checkpoint of one of"),
        ("SD15", "keys", NAMES, "unknown layer group 'keys'; choose one of cross_attention_kv, cross_attention"),
        ("SDXL", "self_attention", NAMES, "this SDXL model has no layer of the group 'self_attention'; choose another"),
        ("SD15", "all", ["time_embed.0", "label_emb.0.0", "out.2"], "this SD15 model has no layer of the group 'all'"),
    ],
)
def test_a_group_that_is_not_there_is_named(family: str, group: str, names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        select(family, group, names)


def test_a_group_has_its_layers_and_no_other() -> None:
    assert select("SD15", "cross_attention_kv", NAMES) == [NAMES[1]]
    assert select("SDXL", "non_cross_attention", NAMES) == [NAMES[0]]
    assert select("SD15", "all", NAMES) == NAMES[:2]


def test_a_family_without_unet_blocks_is_named() -> None:
    with pytest.raises(ValueError, match="'Flux' have no UNet blocks; choose a method that edits layers only"):
        blocks("Flux", "transformer", NAMES)
