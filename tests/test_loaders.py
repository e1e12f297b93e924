"""The types of weights and the states of a MODEL that people load: what is erased from them, and that they stay."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from concept_erasure.erasure_core.layers import is_editable, shape_of, weight_of
from erasure_tests.families import small_model
from erasure_tests.runs import base_hash, run
from torch import Tensor, nn
from torch.nn import functional as F

from testbed.playground import Playground

pytestmark = pytest.mark.usefixtures("as_a_node_runs", "few_words")
TINY = {"steps": 2, "sampling_steps": 2, "trajectories": 1, "batch": 1, "candidates": 2, "sentences": 2}
TINY |= {"kept_sentences": 0, "vocabulary": "none"}
FP8 = torch.float8_e4m3fn
LARGEST = 448.0


class Packed(nn.Module):
    """A Linear as GGUF loaders have it: bytes of another shape than the weight's, unpacked at every call."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True, **_: Any) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = nn.Parameter(torch.zeros(1, dtype=torch.uint8), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(out_features), requires_grad=False) if bias else None

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
        weight = state[f"{prefix}weight"].float()
        self.scale = float(weight.abs().amax()) / 127
        levels = (weight / self.scale).round().to(torch.int8).view(torch.uint8)
        self.weight = nn.Parameter(levels.reshape(-1), requires_grad=False)
        if self.bias is not None:
            self.bias = nn.Parameter(state[f"{prefix}bias"].float(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Unpack, multiply."""
        weight = self.weight.view(torch.int8).reshape(self.out_features, self.in_features).to(x.dtype) * self.scale
        return F.linear(x, weight, None if self.bias is None else self.bias.to(x.dtype))


def scaled(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The blocks' matrices as scaled fp8, as the files that say so by the key `scaled_fp8` have them."""
    found: dict[str, Tensor] = {"scaled_fp8": torch.zeros(0, dtype=FP8)}
    for name, value in weights.items():
        if value.ndim == 2 and "blocks." in name and name.endswith(".weight"):
            scale = value.float().abs().amax() / LARGEST
            found[name] = (value.float() / scale).to(FP8)
            found[f"{name.removesuffix('.weight')}.scale_weight"] = scale
        else:
            found[name] = value
    return found


def packed() -> type:
    """ComfyUI's operations with `Packed` in the place of Linear."""
    import comfy.ops

    return type("PackedOperations", (comfy.ops.manual_cast,), {"Linear": Packed})


def loaded(kind: str, layout: str) -> Playground:
    """The layout's model with its weights stored in another way."""
    if kind == "scaled fp8":
        return small_model(layout, scaled)
    if kind == "packed":
        return small_model(layout, options={"custom_operations": packed()})
    return small_model(layout, options={"dtype": {"fp8": FP8, "bf16": torch.bfloat16, "fp16": torch.float16}[kind]})


@pytest.mark.parametrize("layout", ["Wan 2.1", "Flux.1 dev"])
@pytest.mark.parametrize("kind", ["fp16", "bf16", "fp8", "scaled fp8", "packed"])
def test_every_type_of_weights_can_be_erased_from(kind: str, layout: str) -> None:
    testbed = loaded(kind, layout)
    from concept_erasure.nodes import host  # which imports ComfyUI, as the line before has made possible

    layers = {"Wan 2.1": "blocks.0.cross_attn.k", "Flux.1 dev": "double_blocks.0.txt_attn.qkv"}
    weight = testbed.model.model.diffusion_model.get_submodule(layers[layout]).weight
    assert type(weight) not in (Tensor, nn.Parameter) or weight.dtype != torch.float32, "these are plain weights"
    before = base_hash(testbed) if kind != "scaled fp8" else None
    erased, _ = run(testbed, "esd", learning_rate=0.01, **TINY)
    assert not erased.is_zero() and erased.not_finite() is None
    if kind != "packed":  # their loaders have a patcher of their own
        assert len(host.patched(testbed.model, erased, 1.0).patches) == len(erased.layers())
    whole = small_model(layout)
    assert len(host.patched(whole.model, erased, 1.0).patches) == len(erased.layers())
    assert before is None or base_hash(testbed) == before


@pytest.mark.parametrize("kind", ["fp16", "bf16", "fp8", "scaled fp8"])
def test_an_edit_of_the_same_file_in_another_type_is_applied_without_a_warning(kind: str, monkeypatch) -> None:
    testbed, whole = loaded(kind, "Wan 2.1"), small_model("Wan 2.1")
    from concept_erasure.nodes import erased_unet

    said: list[str] = []
    monkeypatch.setattr(erased_unet.logging, "warning", lambda text, *rest: said.append(text % rest))
    for made_on, applied_to in ((testbed, whole), (whole, testbed)):
        erased, _ = run(made_on, "uce", **TINY)
        erased_unet.apply(applied_to.model, erased, 1.0)
        assert not said
        other = small_model("Wan 2.1", lambda weights: {key: value * 1.02 for key, value in weights.items()})
        erased_unet.apply(other.model, erased, 1.0)
        assert "another checkpoint" in said.pop()


@pytest.mark.parametrize("kind", ["bf16", "fp8", "scaled fp8", "packed"])
def test_a_closed_form_reads_quantised_weights_as_they_act(kind: str) -> None:
    testbed, whole = loaded(kind, "Wan 2.1"), small_model("Wan 2.1")
    edits = [run(model, "uce", **TINY)[0].layers() for model in (testbed, whole)]
    assert set(edits[0]) == set(edits[1])
    for name, change in edits[1].items():
        near, exact = (
            layers[name]["lora_up.weight"] @ layers[name]["lora_down.weight"].to(layers[name]["lora_up.weight"])
            for layers in edits
        )
        assert (near - exact).norm() < 0.1 * exact.norm(), name
        assert not torch.equal(near, exact) and change


def test_the_weight_of_a_packed_layer_is_what_it_multiplies_with() -> None:
    layer = Packed(5, 3)
    weight, bias = torch.randn(3, 5), torch.randn(3)
    layer._load_from_state_dict({"weight": weight, "bias": bias}, "")
    assert is_editable(layer) and shape_of(layer) == (3, 5) and layer.weight.shape == (15,)
    assert torch.allclose(weight_of(layer), weight, atol=float(weight.abs().amax()) / 127)
    assert not is_editable(nn.LayerNorm(3)) and not is_editable(nn.Conv2d(4, 4, 3, groups=2))


def test_an_edit_is_made_on_top_of_a_lora_and_a_merge() -> None:
    testbed = small_model("Wan 2.1")
    from concept_erasure.nodes import host

    lora, _ = run(testbed, "esd", learning_rate=0.05, **TINY)
    merged = testbed.model.clone()
    other = small_model("Wan 2.1").model
    merged.add_patches(other.get_key_patches("diffusion_model."), 0.5, 0.5)
    for model in (host.patched(testbed.model, lora, 1.0), merged):
        changed = Playground(model, testbed.clip, None, {})
        host.use(testbed.model)  # clones share one network, and the run before may have left another's weights in it
        before = base_hash(testbed)
        erased, _ = run(changed, "uce", **TINY)
        both = host.patched(model, erased, 1.0)
        key = f"diffusion_model.{next(iter(erased.layers()))}.weight"
        assert len(both.patches[key]) == len(model.patches.get(key, [])) + 1
        host.use(testbed.model)
        assert base_hash(testbed) == before


def load_in_part(model: Any, memory: int) -> None:
    """What ComfyUI does on a card with so few bytes left; on the CPU it never does so by itself."""
    import comfy.model_management

    comfy.model_management.unload_all_models()
    entry = comfy.model_management.LoadedModel(model)
    entry.model_load(memory)
    comfy.model_management.current_loaded_models.insert(0, entry)


@pytest.mark.parametrize("method", ["uce", "esd"])
def test_a_model_in_low_vram_mode_gives_the_same_edit(method: str) -> None:
    """Its layers are cast at each call, and the patches of a LoRA are added only then."""
    testbed = small_model("Wan 2.1")
    from concept_erasure.nodes import host

    lora, _ = run(testbed, "esd", learning_rate=0.05, **TINY)
    edits = []
    for memory in (0, 1):
        model = host.patched(testbed.model, lora, 1.0)
        host.use(testbed.model)
        before = base_hash(testbed)
        if memory:
            load_in_part(model, memory)
            assert model.lowvram_patch_counter() > 0
        edits.append(run(Playground(model, testbed.clip, None, {}), method, **TINY)[0])
        host.use(testbed.model)
        assert base_hash(testbed) == before
    assert not edits[0].is_zero() and set(edits[0].tensors) == set(edits[1].tensors)
    for name, value in edits[0].tensors.items():
        torch.testing.assert_close(edits[1].tensors[name], value, msg=name)


@pytest.mark.parametrize("layout", ["SD1.5 inpainting", "Flux.1 Fill", "Wan 2.1 image to video"])
def test_an_inpainting_model_is_given_an_empty_picture(layout: str) -> None:
    testbed = small_model(layout)
    from concept_erasure.nodes import host

    with host.open_session(testbed.model, testbed.clip, 64, 64) as denoiser:
        text, latents = denoiser.encode(["circle", "square"]), denoiser.empty_latents(2)
        reads = denoiser.modules()
        first = next(reads[name] for name in ("input_blocks.0.0", "img_in", "patch_embedding") if name in reads)
        patch = 4 if "Flux" in layout else 1
        wide = shape_of(first)[1] // patch
        assert text.values["c_concat"].shape[:2] == (2, wide - latents.shape[1])
        assert denoiser.predict(latents + 1.0, denoiser.sigmas(4)[1].expand(2), text).shape == latents.shape
