"""Properties of every method whose result acts while the model runs, on a toy denoiser."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from concept_erasure.erasure_core import method
from concept_erasure.erasure_core.concepts import parse_request
from concept_erasure.erasure_core.erased_unet import load_erased_unet, save_erased_unet
from concept_erasure.erasure_core.inference import ModelCall, changed, recorded
from concept_erasure.erasure_core.memory.checkpointing import by_block
from concept_erasure.erasure_core.method import inference_edit, methods
from concept_erasure.erasure_core.report import Report
from erasure_tests.small import make
from erasure_tests.toy import ToyDenoiser

METHODS = methods()


def edit_of(name: str, denoiser: ToyDenoiser):
    """The inference edit of the method, or of its key; skips, saying why, where there is none."""
    erased = make(name).erase(denoiser, parse_request("circle"), Report())
    hook = erased if erased.provenance.kind == "hook" else erased.key
    if hook is None:
        pytest.skip(f"{name} makes an edit of weights only")
    return METHODS[name].inference(hook)


@pytest.mark.parametrize("name", METHODS)
def test_what_a_method_makes_comes_back_from_its_file(name: str, tmp_path: Path) -> None:
    erased = make(name).erase(ToyDenoiser(), parse_request("circle"), Report())
    for edit in [erased] if erased.key is None else [erased, erased.key]:
        save_erased_unet(edit, tmp_path / "edit.safetensors")
        again = load_erased_unet(tmp_path / "edit.safetensors")
        assert again.provenance.kind == edit.provenance.kind
        assert all(torch.equal(again.tensors[key], value) for key, value in edit.tensors.items())


def test_a_hook_without_all_its_parts_is_refused() -> None:
    for name in METHODS:
        erased = make(name).erase(ToyDenoiser(), parse_request("circle"), Report())
        if erased.provenance.kind == "hook":
            one = dict([max(erased.tensors.items())])
            with pytest.raises(ValueError, match=r"lacks a part|has no tensor"):
                inference_edit(dataclasses.replace(erased, tensors=one))


@pytest.mark.parametrize(
    "bug", [KeyError("layer"), TypeError("a bug"), ValueError("a bug")], ids=lambda bug: type(bug).__name__
)
@pytest.mark.parametrize("place", ["declaration", "edit"])
def test_a_bug_in_a_method_is_no_damaged_file(place: str, bug: Exception, monkeypatch) -> None:
    erased = make("saeuron").erase(ToyDenoiser(), parse_request("circle"), Report())

    def fail(*_arguments: object) -> None:
        raise bug

    if place == "declaration":
        monkeypatch.setattr(method, "check_declared", fail)
    else:
        monkeypatch.setattr(METHODS["saeuron"], "inference", fail)
    with pytest.raises(type(bug)) as raised:
        inference_edit(erased)
    assert raised.value is bug


def call_of(denoiser: ToyDenoiser, prompts: list[str], side: int = 4) -> ModelCall:
    """A call on fixed latents, different in each row."""
    latents = torch.randn(len(prompts), 4, 4, side, generator=torch.Generator().manual_seed(5))
    sigma = torch.tensor([8.0, 3.0, 1.0, 0.5])[: len(prompts)]
    return ModelCall(latents, sigma, denoiser.encode(prompts).tokens, torch.ones(len(prompts), dtype=torch.bool))


def run(edit, denoiser: ToyDenoiser, call: ModelCall, strength: float = 1.0) -> torch.Tensor:
    """The network's prediction inside the edit."""
    from concept_erasure.erasure_core.denoiser import Conditioning

    def forward(tokens: torch.Tensor) -> torch.Tensor:
        return denoiser.predict(call.latents, call.sigma, Conditioning({"c_crossattn": tokens}))

    with torch.no_grad():
        return edit(denoiser.modules(), call, forward, strength)


@pytest.mark.parametrize("name", METHODS)
def test_nothing_stays_on_the_network_and_rows_are_independent(name: str) -> None:
    denoiser = ToyDenoiser()
    edit = edit_of(name, denoiser)
    prompts = ["a circle", "square", "", "red circle"]
    call = call_of(denoiser, prompts)
    together = run(edit, denoiser, call)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in denoiser.network.modules())
    for row in range(len(prompts)):
        alone = ModelCall(
            call.latents[row : row + 1], call.sigma[row : row + 1], call.tokens[row : row + 1], call.positive[:1]
        )
        assert torch.allclose(run(edit, denoiser, alone), together[row : row + 1], atol=1e-5), prompts[row]


@pytest.mark.parametrize("name", METHODS)
def test_an_exception_in_the_network_leaves_nothing_attached(name: str) -> None:
    denoiser = ToyDenoiser()
    edit, call = edit_of(name, denoiser), call_of(denoiser, ["a circle"])

    def broken(_tokens: torch.Tensor) -> torch.Tensor:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        edit(denoiser.modules(), call, broken, 1.0)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in denoiser.network.modules())


@pytest.mark.parametrize("name", METHODS)
def test_other_shapes_and_longer_texts_are_taken(name: str) -> None:
    denoiser = ToyDenoiser()
    edit = edit_of(name, denoiser)
    call = call_of(denoiser, ["a circle", "square"], side=6)
    assert run(edit, denoiser, call).shape == call.latents.shape
    doubled = ModelCall(call.latents, call.sigma, call.tokens.repeat(1, 2, 1), call.positive)
    assert run(edit, denoiser, doubled).shape == call.latents.shape


def test_changed_and_recorded_are_undone() -> None:
    layer, x = torch.nn.Linear(3, 3), torch.ones(2, 3)
    plain = layer(x)
    with (
        recorded({"it": layer}) as kept,
        changed({layer: lambda _given, y: 2 * y}, {layer: lambda given: (-given[0],)}),
    ):
        assert torch.allclose(layer(x), 2 * (2 * layer.bias - plain))
    assert torch.equal(layer(x), plain) and set(kept) == {"it"}


@pytest.mark.parametrize("name", METHODS)
def test_a_gradient_goes_through_an_edit_that_was_read_as_a_node_reads_it(name: str) -> None:
    denoiser = ToyDenoiser()
    erased = make(name).erase(denoiser, parse_request("circle"), Report())
    hook = erased if erased.provenance.kind == "hook" else erased.key
    if hook is None:
        pytest.skip(f"{name} makes an edit of weights only")
    with torch.inference_mode():
        read = dataclasses.replace(hook, tensors={key: value.clone() for key, value in hook.tensors.items()})
        edit = METHODS[name].inference(read)
    call = call_of(denoiser, ["a circle"])
    latents = call.latents.clone().requires_grad_()

    def forward(tokens: torch.Tensor) -> torch.Tensor:
        from concept_erasure.erasure_core.denoiser import Conditioning

        return denoiser.predict(latents, call.sigma, Conditioning({"c_crossattn": tokens}))

    edit(denoiser.modules(), call, forward, 0.5).square().sum().backward()
    assert bool(latents.grad.isfinite().all()) and bool(latents.grad.any())


@pytest.mark.parametrize("ours", [False, True])
def test_a_part_that_is_computed_again_for_its_gradient_is_changed_again(ours: bool) -> None:
    inner = torch.nn.Linear(3, 3)
    block = torch.nn.Sequential(inner, torch.nn.Tanh())
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(1))

    def gradient(checkpointed: bool) -> torch.Tensor:
        given = x.clone().requires_grad_()
        with changed({inner: lambda _given, out: torch.sin(out) * out}):
            if not checkpointed:
                made = block(given)
            elif ours:
                with by_block([block]):
                    made = block(given)
            else:
                made = torch.utils.checkpoint.checkpoint(block, given, use_reentrant=False)
        assert not inner._forward_hooks
        made.sum().backward()
        assert not inner._forward_hooks
        return given.grad

    original = torch.utils.checkpoint.checkpoint
    assert torch.equal(gradient(True), gradient(False))
    assert torch.utils.checkpoint.checkpoint is original
