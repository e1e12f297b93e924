"""KPOP: the weights forget, and the key brings back, on a toy denoiser."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from concept_erasure.erasure_core.concepts import parse_request
from concept_erasure.erasure_core.denoiser import Conditioning
from concept_erasure.erasure_core.erased_unet import ErasedUNet, load_erased_unet, save_erased_unet
from concept_erasure.erasure_core.inference import ModelCall
from concept_erasure.erasure_core.methods.kpop import KnowledgePrompt, reading_layers
from concept_erasure.erasure_core.report import Report
from erasure_tests.small import make
from erasure_tests.toy import ToyDenoiser
from erasure_tests.weights import edited


def call_of(denoiser: ToyDenoiser, prompt: str) -> ModelCall:
    """Eight fixed latents at eight noise levels, all with one prompt."""
    latents = torch.randn(8, 4, 4, 4, generator=torch.Generator().manual_seed(5))
    tokens = denoiser.encode([prompt] * 8).tokens
    return ModelCall(latents, torch.linspace(1.0, 9.0, 8), tokens, torch.ones(8, dtype=torch.bool))


def answer(denoiser: ToyDenoiser, prompt: str, key: ErasedUNet | None = None, strength: float = 1.0) -> torch.Tensor:
    """The network's prediction, with the key if there is one."""
    call = call_of(denoiser, prompt)

    def forward(tokens: torch.Tensor) -> torch.Tensor:
        return denoiser.predict(call.latents, call.sigma, Conditioning({"c_crossattn": tokens}))

    with torch.no_grad():
        if key is None:
            return forward(call.tokens)
        return KnowledgePrompt.inference(key)(denoiser.modules(), call, forward, strength)


@pytest.fixture(scope="module")
def hidden() -> ErasedUNet:
    """ "circle" hidden as "square" with enough steps to learn it."""
    settings = {"steps": 150, "learning_rate": 0.02, "trajectories": 6, "negative_guidance": 0.0, "batch": 4}
    return make("kpop", key_learning_rate=0.05, **settings).erase(
        ToyDenoiser(), parse_request("circle => square"), Report()
    )


def error(x: torch.Tensor, y: torch.Tensor) -> float:
    """Mean squared difference."""
    return float((x - y).square().mean())


def test_the_weights_forget_and_the_key_brings_back(hidden: ErasedUNet) -> None:
    denoiser = ToyDenoiser()
    frozen, empty = answer(denoiser, "circle"), answer(denoiser, "")
    generator = torch.Generator().manual_seed(9)
    noise = {name: torch.randn(key.shape, generator=generator) for name, key in hidden.key.tensors.items()}
    wrong = replace(hidden.key, tensors={n: x * hidden.key.tensors[n].norm() / x.norm() for n, x in noise.items()})
    with edited(denoiser, hidden):
        closed = error(answer(denoiser, "circle"), frozen)
        opened = error(answer(denoiser, "circle", hidden.key), frozen)
        assert opened < 0.5 * closed
        assert error(answer(denoiser, "circle", wrong), frozen) > 2 * opened, "any key opens"
        assert error(answer(denoiser, "", hidden.key), empty) < closed


def test_the_key_is_an_edit_of_its_own_that_the_file_keeps(hidden: ErasedUNet, tmp_path: Path) -> None:
    assert not hidden.parts() and hidden.provenance.kind == "weights"
    assert hidden.key.provenance.kind == "hook" and hidden.key.provenance.method == "kpop"
    assert {name: tuple(key.shape) for name, key in hidden.key.parts().items()} == {
        "block.to_k": (10, 16),
        "block.to_v": (10, 16),
    }
    save_erased_unet(hidden.key, tmp_path / "key.safetensors")
    read, denoiser = load_erased_unet(tmp_path / "key.safetensors"), ToyDenoiser()
    assert torch.equal(answer(denoiser, "circle", read), answer(denoiser, "circle", hidden.key))


def test_strength_goes_from_closed_to_open(hidden: ErasedUNet) -> None:
    denoiser = ToyDenoiser()
    closed, opened = answer(denoiser, "circle"), answer(denoiser, "circle", hidden.key)
    assert error(closed, opened) > 1e-6
    assert torch.allclose(answer(denoiser, "circle", hidden.key, 0.25), closed + 0.25 * (opened - closed), atol=1e-6)


def test_a_key_is_appended_as_the_equation_says(hidden: ErasedUNet) -> None:
    """Attention over [text; key], where keys read p_k and values p_v, computed here by hand."""
    denoiser, call = ToyDenoiser(), call_of(ToyDenoiser(), "a circle")
    block, key = denoiser.network["block"], hidden.key.parts()
    seen: dict[str, torch.Tensor] = {}
    handles = [
        getattr(block, name).register_forward_hook(lambda _m, given, _out, name=name: seen.update({name: given[0]}))
        for name in ("to_k", "to_v")
    ]
    answer(denoiser, "a circle", hidden.key)
    for handle in handles:
        handle.remove()
    for name, given in seen.items():
        expected = torch.cat([call.tokens, key[f"block.{name}"].expand(8, -1, -1)], 1)
        assert torch.equal(given, expected)
    assert not torch.equal(seen["to_k"], seen["to_v"])


def test_the_middle_block_reads_the_key_or_all_where_it_has_none() -> None:
    layers = {f"{block}.attn2.{name}": torch.nn.Identity() for block in ("a", "middle_block.1") for name in ("k", "v")}
    assert set(reading_layers(layers, "middle")) == {"middle_block.1.attn2.k", "middle_block.1.attn2.v"}
    assert set(reading_layers(layers, "all")) == set(layers)
    without = {name: layer for name, layer in layers.items() if name.startswith("a.")}
    assert reading_layers(without, "middle") == without


def test_a_model_without_the_keys_layers_is_named(hidden: ErasedUNet) -> None:
    denoiser = ToyDenoiser()
    foreign = replace(hidden.key, tensors={"erasure.elsewhere.to_k": torch.zeros(2, 16)})
    with pytest.raises(ValueError, match="elsewhere"):
        answer(denoiser, "circle", foreign)
