"""Files that the published code of SPM, ESD and UCE writes: recognised, read, and applied as they say; others are named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from concept_erasure.erasure_core.erased_unet import ErasedUNet, Provenance, save_erased_unet
from concept_erasure.erasure_core.erased_unet.foreign import FOREIGN, load_foreign, looks_foreign
from concept_erasure.erasure_core.files import file_head
from safetensors.torch import save_file
from torch import Tensor

BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0"
OURS = "diffusion_model.input_blocks.1.1.transformer_blocks.0"
SPM = f"lora_unet_{BLOCK.replace('.', '_')}_attn2_to_k"
SPM_FACTS = {"prompts": "Mickey Mouse,Snoopy", "rank": "1", "alpha": "1.0"}
KV, SELF = ("attn2.to_k.weight", "attn2.to_v.weight"), ("attn1.to_q.weight", "attn1.to_k.weight")


def spm(width: int = 768, out: int = 320) -> dict[str, Tensor]:
    """One layer of SPM's file, rank 1."""
    pair = {f"{SPM}.lora_up.weight": torch.randn(out, 1), f"{SPM}.lora_down.weight": torch.randn(1, width)}
    return pair | {f"{SPM}.alpha": torch.tensor(1.0)}


def whole(*layers: str) -> dict[str, Tensor]:
    """Whole weights of layers, as ESD and UCE save them."""
    return {f"{BLOCK}.{layer}": torch.randn(320, 768 if layer in KV else 320) for layer in layers}


FILES = {
    "spm": ("snoopy_last", spm(), SPM_FACTS, ("Mickey Mouse", "Snoopy")),
    "uce": ("uce_test", whole(*KV), None, ("uce_test",)),
    "esd": ("esd-Van_Gogh-from-Van_Gogh-esdxstrict", whole(*KV), None, ("Van Gogh",)),
    "esd u": ("esd-car-from-vehicle-esdu", whole(*SELF), None, ("car",)),
    "esd x": ("renamed", whole(*KV, "attn2.to_q.weight"), None, ("renamed",)),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_published_file_is_recognised_by_its_head_and_read(kind: str, tmp_path: Path) -> None:
    stem, tensors, facts, targets = FILES[kind]
    path = tmp_path / f"{stem}.safetensors"
    save_file(tensors, path, metadata=facts)
    assert looks_foreign(file_head(path, 1 << 20))
    edit = load_foreign(path)
    assert edit.provenance.method == kind.split()[0] and edit.provenance.kind == FOREIGN
    assert tuple(target for target, _ in edit.provenance.targets) == targets
    assert all(torch.equal(edit.tensors[name], value) for name, value in tensors.items())


LORA = {"lora_unet_down_blocks_0.lora_up.weight": torch.ones(2, 1), "lora_unet_down_blocks_0.alpha": torch.tensor(1.0)}


@pytest.mark.parametrize(
    ("tensors", "what"),
    [
        (LORA, "a plain LoRA: use Load LoRA"),
        ({"unet.mid_block.attn.to_k.lora_A.weight": torch.ones(1, 2)}, "a plain LoRA"),
        ({"context_embedder.weight": torch.ones(4, 4)}, "UCE's edit of the layers behind the text encoders of Flux"),
        ({"model.diffusion_model.out.2.weight": torch.ones(1)}, "a whole checkpoint: use Load Checkpoint"),
        (whole(*KV) | {f"{BLOCK}.norm1.weight": torch.ones(4), "conv_norm_out.weight": torch.ones(4)}, "a whole UNet"),
        ({"a": torch.ones(1)}, "of an unknown format"),
        ({}, "of an unknown format"),
    ],
)
def test_what_is_not_read_is_refused_with_what_it_is(tensors: dict, what: str, tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    save_file(tensors, path)
    assert not looks_foreign(file_head(path, 1 << 20))
    with pytest.raises(ValueError, match=rf"file\.safetensors is no erased UNet.*it is {what}"):
        load_foreign(path)


def test_a_broken_published_file_is_named_and_ours_is_not_taken_for_one(tmp_path: Path) -> None:
    path = tmp_path / "uce.safetensors"
    save_file(whole(*KV) | {f"{BLOCK}.attn2.to_k.weight": torch.full((320, 768), float("nan"))}, path)
    with pytest.raises(ValueError, match=r"uce\.safetensors: the tensor .* UCE file .*NaN"):
        load_foreign(path)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match="not a complete"):
        load_foreign(path)
    ours = ErasedUNet({"diffusion_model.a.diff": torch.ones(1)}, Provenance("ap", {}, (), (), 0, "SD15"))
    save_erased_unet(ours, path)
    assert load_foreign(path) is None


@pytest.fixture(scope="module")
def model():
    """A small random SD 1.5."""
    from erasure_tests.families import small_model

    return small_model("SD1.5").model


def test_esd_and_uce_weights_become_the_models_own(model, tmp_path: Path) -> None:
    import comfy.utils
    from concept_erasure.nodes import host
    from concept_erasure.nodes.erased_unet import SaveErasedUNet, apply, loaded

    bases = {layer: comfy.utils.get_attr(model.model, f"{OURS}.{layer}").float() for layer in KV}
    edited = {layer: base + 0.01 * torch.randn(base.shape) for layer, base in bases.items()}
    path = tmp_path / "uce_test.safetensors"
    save_file({f"{BLOCK}.{layer}": value for layer, value in edited.items()}, path)
    edit = loaded(path)
    own, note = host.translated(model, edit)
    assert "weights differ from this MODEL's by" in note and own.provenance.kind == "weights"
    for layer, value in edited.items():
        change = own.tensors[f"{OURS}.{layer.removesuffix('.weight')}.diff"]
        assert torch.allclose(bases[layer] + change, value, atol=1e-5)
    assert set(apply(model, edit, 1.0).patches) == {f"{OURS}.{layer}" for layer in KV} and not model.patches
    with pytest.raises(ValueError, match="was read from a file of UCE's own code"):
        SaveErasedUNet.execute(edit, "x")
    elsewhere = {name.replace("down_blocks.0", "down_blocks.9"): value for name, value in edit.tensors.items()}
    with pytest.raises(ValueError, match=r"changes 'down_blocks\.9.*no such layer"):
        apply(model, ErasedUNet(elsewhere, edit.provenance), 1.0)
    narrow = ErasedUNet({name: value[:, :-1] for name, value in edit.tensors.items()}, edit.provenance)
    with pytest.raises(ValueError, match=r"load the kind of model that the edit was made on"):
        apply(model, narrow, 1.0)


def test_spms_adapters_become_low_rank_changes(model, tmp_path: Path) -> None:
    import comfy.utils
    from concept_erasure.nodes import host
    from concept_erasure.nodes.erased_unet import apply, loaded

    out, width = comfy.utils.get_attr(model.model, f"{OURS}.attn2.to_k.weight").shape
    path = tmp_path / "snoopy_last.safetensors"
    save_file(spm(width, out), path, metadata=SPM_FACTS)
    edit, note = host.translated(model, loaded(path))
    assert (
        set(edit.layers()) == {f"{OURS}.attn2.to_k".removeprefix("diffusion_model.")} and "acts on every prompt" in note
    )
    assert set(apply(model, loaded(path), 0.5).patches) == {f"{OURS}.attn2.to_k.weight"}
