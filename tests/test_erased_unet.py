"""The file: what is written is what is read, and what is not whole is refused."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from pathlib import Path

import pytest
import torch
from concept_erasure.erasure_core import erased_unet
from concept_erasure.erasure_core.erased_unet import ErasedUNet, Provenance, load_erased_unet, save_erased_unet
from safetensors.torch import save_file


@pytest.fixture
def erased() -> ErasedUNet:
    source = Provenance("ap", {"steps": 3}, (("circle", ""),), ("red",), 7, "SD15", "abc", scores={"esr1": 99.0})
    layer = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k"
    tensors = {f"{layer}.lora_up.weight": torch.rand(4, 2), f"{layer}.lora_down.weight": torch.rand(2, 3)}
    return ErasedUNet(tensors | {f"{layer}.alpha": torch.tensor(2.0)}, source)


def test_a_saved_file_comes_back_equal(erased: ErasedUNet, tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "edit.safetensors"
    save_erased_unet(erased, path)
    again = load_erased_unet(path)
    assert again.provenance == erased.provenance
    assert all(torch.equal(again.tensors[key], value) for key, value in erased.tensors.items())
    assert [file.name for file in path.parent.iterdir()] == [path.name], "something was left beside the file"


def test_a_full_disk_leaves_the_old_file_whole(erased: ErasedUNet, tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "edit.safetensors"
    save_erased_unet(erased, path)
    before = path.read_bytes()

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    other = dataclasses.replace(erased, tensors={key: value + 1 for key, value in erased.tensors.items()})
    with pytest.raises(OSError, match=r"edit\.safetensors.*Free some space"):
        save_erased_unet(other, path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_name_that_no_file_can_have_is_named(erased: ErasedUNet, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"could not save .*Give a shorter file name; nothing was overwritten"):
        save_erased_unet(erased, tmp_path / f"{'n' * 300}.safetensors")
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError, match=r"could not save .*Choose another folder; nothing was overwritten"):
        save_erased_unet(erased, tmp_path / "file" / "edit.safetensors")


def test_files_that_are_no_erased_unet_are_refused(erased: ErasedUNet, tmp_path: Path) -> None:
    path = tmp_path / "edit.safetensors"
    save_erased_unet(erased, path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    with pytest.raises(ValueError, match=r"not a complete \.safetensors"):
        load_erased_unet(path)
    path.write_bytes(b"not a tensor file at all")
    with pytest.raises(ValueError, match=r"not a complete \.safetensors"):
        load_erased_unet(path)
    with pytest.raises(ValueError, match=r"not a complete \.safetensors"):
        load_erased_unet(tmp_path / "missing.safetensors")
    save_file(dict(erased.tensors), path)
    with pytest.raises(ValueError, match="no erased UNet"):
        load_erased_unet(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 99}, "update the pack"),
        ({"format_version": -1}, "format_version is -1"),
        ({"format_version": "1"}, "format_version is '1'"),
        ({"format_version": True}, "format_version is True"),
        ({"targets": 3}, r"targets is '3', and should be a list of \[target, anchor\]"),
        ({"targets": ["circle"]}, "targets is 'circle'"),
        ({"targets": [["circle"]]}, r"targets hold \['circle'\]"),
        ({"targets": [["circle", 1]]}, r"targets hold \['circle', 1\]"),
        ({"retain": "red"}, "retain is 'red'"),
        ({"retain": [1]}, "retain is '1'"),
        ({"seed": "7"}, "seed is '7'"),
        ({"seed": 0.5}, r"seed is '0\.5'"),
        ({"method": 3}, "method is '3'"),
        ({"method": None}, "method is 'None'"),
        ({"settings": []}, r"settings is '\[\]'"),
        ({"scores": 1}, "scores is '1'"),
        ({"family": ["SD15"]}, "family is "),
        ({"fingerprint": 0}, "fingerprint is '0'"),
        ({"kind": "wieghts"}, "kind is 'wieghts'; this pack knows weights, hook"),
        ({"kind": "foreign"}, "kind is 'foreign'"),
        ({"a_later_field": 1}, None),
    ],
)
def test_metadata_of_another_version_is_named(
    erased: ErasedUNet, tmp_path: Path, change: dict, message: str | None
) -> None:
    fields = dataclasses.asdict(erased.provenance) | change
    path = tmp_path / "edit.safetensors"
    save_file(dict(erased.tensors), path, metadata={erased_unet.METADATA_KEY: json.dumps(fields)})
    if message is None:
        assert load_erased_unet(path).provenance == erased.provenance
        return
    with pytest.raises(ValueError, match=message):
        load_erased_unet(path)


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "3", "null", '"text"', "{", "{}"])
def test_metadata_that_is_no_object_of_fields_is_named(erased: ErasedUNet, tmp_path: Path, text: str) -> None:
    path = tmp_path / "edit.safetensors"
    save_file(dict(erased.tensors), path, metadata={erased_unet.METADATA_KEY: text})
    with pytest.raises(ValueError, match=r"edit\.safetensors: its erasure metadata cannot be read"):
        load_erased_unet(path)


def test_tensors_that_share_memory_are_saved(erased: ErasedUNet, tmp_path: Path) -> None:
    shared = torch.arange(8.0)
    tensors = {
        "erasure.a.sigmas": shared,
        "erasure.b.sigmas": shared,
        "erasure.c.sigmas": shared[2:6:2],
        "erasure.d.x": shared[1:],
    }
    hook = ErasedUNet(tensors, dataclasses.replace(erased.provenance, kind="hook"))
    save_erased_unet(hook, tmp_path / "edit.safetensors")
    again = load_erased_unet(tmp_path / "edit.safetensors").tensors
    assert all(torch.equal(again[key], value) for key, value in tensors.items())


UP, DOWN = (
    f"diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.lora_{end}.weight" for end in ("up", "down")
)
LAYER = UP.removesuffix(".lora_up.weight")
PART = "erasure.0.lora.block.to_k"


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("weights", None, "holds no tensor of an edit of kind 'weights'"),
        ("hook", {}, "holds no tensor of an edit of kind 'hook'"),
        ("weights", {UP: torch.full((4, 2), float("nan"))}, r"lora_up\.weight' holds NaN or infinity"),
        ("weights", {DOWN: torch.full((2, 3), float("inf"))}, r"lora_down\.weight' holds NaN or infinity"),
        ("weights", {DOWN: None}, r"lora_up\.weight' is without its other half"),
        ("weights", {UP: None}, r"lora_down\.weight' is without its other half"),
        ("weights", {UP: None, DOWN: None}, "an alpha and no change"),
        ("hook", {f"{PART}.up": torch.ones(1)}, r"to_k\.up' is without its other half"),
        ("weights", {f"{LAYER}.diff": torch.ones(4, 3)}, "has a low-rank pair and a diff"),
        ("weights", {f"{PART}.up": torch.ones(1)}, r"to_k\.up' acts while sampling, and the file's kind is 'weights'"),
        ("weights", {f"{LAYER}.alpha": torch.tensor(0.0)}, "alpha of 0"),
        ("weights", {f"{LAYER}.alpha": torch.ones(2)}, r"alpha of shape \(2,\)"),
        ("weights", {UP: torch.ones(4, 0), DOWN: torch.ones(0, 3)}, "share no rank"),
        ("weights", {UP: torch.ones(4, 3)}, r"pair of shapes \(4, 3\) and \(2, 3\), which share no rank"),
        ("weights", {UP: None, DOWN: None, f"{LAYER}.diff": torch.ones(4, 3)}, "an alpha without a low-rank pair"),
    ],
)
def test_an_edit_that_is_not_whole_is_refused(
    erased: ErasedUNet, tmp_path: Path, kind: str, change: dict | None, message: str
) -> None:
    tensors = {} if change is None else dict(erased.tensors) | change
    damaged = ErasedUNet(
        {key: value for key, value in tensors.items() if value is not None},
        dataclasses.replace(erased.provenance, kind=kind),
    )
    path = tmp_path / "edit.safetensors"
    save_erased_unet(damaged, path)
    with pytest.raises(ValueError, match=rf"edit\.safetensors: .*{message}.*get the original"):
        load_erased_unet(path)


@pytest.mark.parametrize("kind", ["weights", "hook"])
@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.int8])
def test_a_type_that_nothing_computes_with_is_named(erased: ErasedUNet, tmp_path: Path, kind: str, dtype) -> None:
    key = UP if kind == "weights" else f"{PART}.up"
    fields = dataclasses.asdict(dataclasses.replace(erased.provenance, kind=kind))
    tensors = dict(erased.tensors) | {key: torch.ones(4, 2).to(dtype)}
    path = tmp_path / "edit.safetensors"
    save_file(tensors, path, metadata={erased_unet.METADATA_KEY: json.dumps(fields)})
    with pytest.raises(ValueError, match=rf"{key}' is of type {dtype}.*should be float32"):
        load_erased_unet(path)


def test_a_foreign_tensor_is_named(erased: ErasedUNet, tmp_path: Path) -> None:
    path = tmp_path / "edit.safetensors"
    save_erased_unet(dataclasses.replace(erased, tensors={"lora_te_text_model.diff": torch.ones(1)}), path)
    with pytest.raises(ValueError, match="lora_te_text_model"):
        load_erased_unet(path)


def test_zero_edits_are_recognised(erased: ErasedUNet) -> None:
    zero = {key: torch.zeros_like(value) if "lora_up" in key else value for key, value in erased.tensors.items()}
    assert ErasedUNet(zero, erased.provenance).is_zero() and not erased.is_zero()
