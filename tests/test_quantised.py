"""Acting edits on a model whose Linear layers are ComfyUI's quantised ones, which are none of torch's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from concept_erasure.erasure_core.layers import is_linear, low_rank_product
from erasure_tests.acting import ACTING, acting
from erasure_tests.families import small_model
from erasure_tests.runs import base_hash
from torch import Tensor, nn
from torch.nn import functional as F

from testbed.playground import Playground

pytestmark = pytest.mark.usefixtures("as_a_node_runs", "few_words")
FP8, LARGEST, PREFIX = torch.float8_e4m3fn, 448.0, "model.diffusion_model."


def scaled(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The matrices of the transformer blocks as scaled fp8, as checkpoints have them."""
    found: dict[str, Tensor] = {f"{PREFIX}scaled_fp8": torch.zeros(0, dtype=FP8)}
    for name, value in weights.items():
        found[name] = value
        if value.ndim == 2 and "transformer_blocks" in name:
            scale = value.float().abs().amax() / LARGEST
            found[name] = (value.float() / scale).to(FP8)
            found[f"{name.removesuffix('.weight')}.scale_weight"] = scale
    return found


@pytest.fixture(scope="module")
def testbed() -> Playground:
    """A random SD 1.5 in scaled fp8."""
    made = small_model("SD1.5", stored=scaled)
    layer = made.model.model.diffusion_model.get_submodule("input_blocks.1.1.transformer_blocks.0.attn2.to_k")
    assert is_linear(layer) and not isinstance(layer, nn.Linear), "these are torch's own layers"
    return made


def drawn(testbed: Playground, model: Any) -> Tensor:
    """What KSampler makes of a prompt that says the concept."""
    import comfy.sample

    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    positive, negative = (
        testbed.clip.encode_from_tokens_scheduled(testbed.clip.tokenize(text)) for text in ("circle", "")
    )
    start = torch.zeros_like(noise)
    return comfy.sample.sample(model, noise, 2, 3.0, "euler", "normal", positive, negative, start, disable_pbar=True)


@pytest.mark.parametrize("name", ACTING)
def test_it_acts_on_quantised_layers_as_on_plain_ones(testbed: Playground, name: str) -> None:
    from concept_erasure.nodes import host

    before, weights = drawn(testbed, testbed.model), base_hash(testbed)
    erased = acting(testbed, name)
    plain = small_model("SD1.5")
    effects = [drawn(one, host.patched(one.model, erased, 5.0)) - drawn(one, one.model) for one in (testbed, plain)]
    assert bool(effects[0].isfinite().all()) and effects[0].abs().max() > 1e-2
    # a random network turns the rounding of its weights into large changes, saeuron's thresholds most of all
    assert F.cosine_similarity(effects[0].flatten(), effects[1].flatten(), dim=0) > 0.3
    assert torch.equal(drawn(testbed, testbed.model), before) and base_hash(testbed) == weights


def test_a_layer_is_linear_by_what_it_is_not_by_its_class(testbed: Playground) -> None:
    layer = testbed.model.model.diffusion_model.get_submodule("input_blocks.1.1.transformer_blocks.0.attn2.to_k")
    x, up, down = torch.randn(2, 5, 768), torch.randn(64, 3), torch.randn(3, 768)
    torch.testing.assert_close(low_rank_product(layer, x, up, down), x @ (up @ down).T, rtol=1e-3, atol=1e-2)
