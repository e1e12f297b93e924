"""Models with several levels, in the real host: random ones, laid out as SD 1.5 and SDXL are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from concept_erasure.erasure_core.erased_unet import load_erased_unet, save_erased_unet
from erasure_tests.families import small_model
from erasure_tests.runs import base_hash, run

from benchmarks.playground import Playground

pytestmark = pytest.mark.usefixtures("as_a_node_runs", "few_words")
KV_LAYERS = {"SD15": 2 * 7, "SDXL": 2 * (24 + 6 + 1)}

TINY = {"steps": 2, "sampling_steps": 2, "retain_sampling_steps": 2, "trajectories": 1, "batch": 1, "candidates": 2}
TINY |= {"preserved": 1, "scan_width": 1}


@pytest.fixture(scope="module", params=list(KV_LAYERS))
def small(request) -> Playground:
    return small_model(request.param)


def answer(small: Playground, model: object) -> torch.Tensor:
    """What a model predicts for the target."""
    from concept_erasure.nodes import host

    with host.opened(model, small.clip, 64, 64) as denoiser, torch.no_grad():
        noisy = torch.randn(denoiser.empty_latents(1).shape, generator=torch.Generator().manual_seed(2))
        return denoiser.predict(noisy, torch.tensor([3.0]), denoiser.encode(["circle"]))


@pytest.mark.parametrize("name", ["ap", "esd"])
def test_only_the_chosen_layers_of_every_level_move(small: Playground, name: str, tmp_path: Path) -> None:
    from concept_erasure.nodes import host
    from concept_erasure.nodes.erased_unet import apply

    family, before, base = host.family_of(small.model), base_hash(small), answer(small, small.model)
    erased, _ = run(small, name, learning_rate=0.01, **TINY)
    layers = erased.layers()
    assert len(layers) == KV_LAYERS[family] and all(".attn2.to_" in layer for layer in layers)
    assert {layer.split(".")[0] for layer in layers} == {"input_blocks", "middle_block", "output_blocks"}
    save_erased_unet(erased, tmp_path / "edit.safetensors")
    edited = apply(small.model, load_erased_unet(tmp_path / "edit.safetensors"), 1.0)
    assert set(edited.patches) == {f"diffusion_model.{layer}.weight" for layer in layers}
    assert not torch.equal(answer(small, edited), base), "the edit changes nothing"
    assert torch.equal(answer(small, small.model), base) and base_hash(small) == before
