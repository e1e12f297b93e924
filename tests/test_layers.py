"""Layer groups: what is chosen, and what is said where nothing can be."""

from __future__ import annotations

import re

import pytest
import torch
from concept_erasure.erasure_core.families import FAMILIES, NEEDS
from concept_erasure.erasure_core.layers import GROUPS, blocks, rows, select
from concept_erasure.erasure_core.training.deltas import Deltas

NAMES = ["input_blocks.1.1.proj_in", "input_blocks.1.1.transformer_blocks.0.attn2.to_k", "time_embed.0", "out.2"]


@pytest.mark.parametrize(
    ("family", "group", "names", "message"),
    [
        (
            "Mochi",
            "all",
            NAMES,
            "'Mochi' are not supported yet; supported are SD15, .*SDXL, .*Load a checkpoint of one of",
        ),
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
    with pytest.raises(ValueError, match="'Mochi' have no UNet blocks; choose a method that edits layers only"):
        blocks("Mochi", "transformer", NAMES)


def test_the_table_is_complete() -> None:
    for name, family in FAMILIES.items():
        assert set(family.groups) <= set(GROUPS) and family.title and family.predicts, name
        assert {*family.lacks, *family.may_lack} <= set(NEEDS), name
        for pattern in (*family.groups.values(), family.text_in, family.fused):
            re.compile(pattern)


def test_of_fused_layers_only_keys_and_values_are_read() -> None:
    shapes = {"double_blocks.0.txt_attn.qkv": (12, 4), "double_blocks.0.txt_attn.proj": (4, 4)}
    assert rows("Flux", "cross_attention_kv", shapes) == {"double_blocks.0.txt_attn.qkv": slice(4, 12)}
    assert rows("Flux", "cross_attention", shapes) == {} == rows("SDXL", "cross_attention_kv", shapes)
    # Lumina 2 has fewer keys and values than queries
    assert rows("Lumina2", "cross_attention_kv", {"context_refiner.0.attention.qkv": (8, 4)}) == {
        "context_refiner.0.attention.qkv": slice(4, 8)
    }


@pytest.mark.parametrize("rank", [0, 2])
def test_a_delta_on_some_rows_leaves_the_others(rank: int) -> None:
    layer = torch.nn.Linear(4, 12)
    deltas = Deltas({"fused": layer}, rank, torch.Generator().manual_seed(0), {"fused": slice(4, 12)})
    with torch.no_grad():
        for parameter in deltas.parameters():
            parameter.add_(1.0)
    x = torch.ones(3, 4)
    with torch.no_grad():
        before = layer(x)
        with deltas.attached():
            moved = layer(x) - before
    assert not moved[:, :4].any() and moved[:, 4:].all()
    exported = deltas.export()
    weight = (
        exported["fused.diff"] if rank == 0 else exported["fused.lora_up.weight"] @ exported["fused.lora_down.weight"]
    )
    assert weight.shape == layer.weight.shape and torch.allclose(x @ weight.T, moved, atol=1e-5)
