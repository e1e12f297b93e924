"""Properties that every registered method must have, on a toy denoiser."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from concept_erasure.erasure_core.concepts import ErasureRequest, parse_request
from concept_erasure.erasure_core.method import methods
from concept_erasure.erasure_core.report import Report
from concept_erasure.erasure_core.training.deltas import Deltas
from concept_erasure.erasure_core.training.trained import GradientMethod
from erasure_tests.small import make
from erasure_tests.toy import ToyDenoiser
from erasure_tests.weights import edited

METHODS = methods()
TRAINED = [name for name, method in METHODS.items() if issubclass(method, GradientMethod)]


def run(name: str, denoiser: ToyDenoiser, request: ErasureRequest | None = None, **changes):
    """Erase "circle" with the method."""
    return make(name, **changes).erase(denoiser, request or parse_request("circle"), Report())


def probe(denoiser: ToyDenoiser, prompt: str) -> torch.Tensor:
    """The network's answer to a prompt on fixed latents."""
    latents = torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(5))
    return denoiser.predict(latents, torch.tensor([8.0, 3.0, 1.0]), denoiser.encode([prompt] * 3))


@pytest.mark.parametrize("name", METHODS)
def test_the_network_is_left_bit_for_bit(name: str) -> None:
    denoiser = ToyDenoiser()
    weights, answer = denoiser.state(), probe(denoiser, "a circle")
    run(name, denoiser)
    assert all(torch.equal(weights[key], value) for key, value in denoiser.state().items())
    assert torch.equal(probe(denoiser, "a circle"), answer)
    assert not any(module._forward_hooks for module in denoiser.network.modules())


@pytest.mark.parametrize("name", METHODS)
def test_an_exception_leaves_nothing_attached(name: str) -> None:
    class Stop(Exception):
        pass

    def stop(*_arguments: object) -> None:
        raise Stop

    denoiser = ToyDenoiser()
    weights, answer = denoiser.state(), probe(denoiser, "a circle")
    with pytest.raises(Stop):
        make(name).erase(denoiser, parse_request("circle"), Report(on_progress=stop, check=stop))
    assert torch.equal(probe(denoiser, "a circle"), answer)
    assert all(torch.equal(weights[key], value) for key, value in denoiser.state().items())
    assert not any(module._forward_hooks for module in denoiser.network.modules())


@pytest.mark.parametrize("name", METHODS)
def test_what_takes_long_before_the_first_step_is_said(name: str) -> None:
    said: list[str] = []
    report = Report(on_progress=lambda *_: said.append("step"), check=lambda doing="": said.append(doing))
    make(name, vocabulary="model_words", candidates=40).erase(ToyDenoiser(), parse_request("circle"), report)
    before = said[: said.index("step")]
    assert any(text.startswith(("sampling step 1 of 4", "prompt 1 of", "encoding sentences")) for text in before)
    if "vocabulary" in {field.name for field in dataclasses.fields(METHODS[name])}:
        assert any(text.startswith("encoding words, 32 of ") for text in said)


@pytest.mark.parametrize("name", METHODS)
def test_same_seed_same_result_and_another_seed_another(name: str) -> None:
    first, again, other = (run(name, ToyDenoiser(), seed=seed).tensors for seed in (3, 3, 4))
    assert first.keys() == again.keys() == other.keys()
    assert all(torch.equal(first[key], again[key]) for key in first)
    if name in TRAINED:
        assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", METHODS)
def test_the_global_random_numbers_are_not_touched(name: str) -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    run(name, ToyDenoiser())
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("name", [name for name in TRAINED if "layers" in METHODS[name].__dataclass_fields__])
@pytest.mark.parametrize("group", ["cross_attention_kv", "all"])
def test_only_the_chosen_layers_are_edited(name: str, group: str) -> None:
    denoiser = ToyDenoiser()
    erased = run(name, denoiser, layers=group)
    edited = {key.removeprefix("diffusion_model.").rsplit(".lora_", 1)[0] for key in erased.tensors if ".lora_" in key}
    assert edited == set(denoiser.layers(group))


@pytest.mark.parametrize("name", TRAINED)
def test_the_target_moves_towards_what_is_desired(name: str) -> None:
    """With many steps the edited prediction for the target is nearer to the anchor's than the frozen one was."""
    if not METHODS[name].uses_anchor:
        pytest.skip(f"{name} makes no anchor of the target")
    denoiser = ToyDenoiser()
    settings = {"negative_guidance": 0.0, "steps": 60, "learning_rate": 0.02, "trajectories": 4, "rank": 8, "gate": False}
    erased = run(name, denoiser, parse_request("circle => square"), **settings)
    if erased.provenance.kind == "hook":
        pytest.skip(f"{name} changes no weights; test_method_{name}.py asks this of its hooks")
    before, anchor = probe(denoiser, "circle"), probe(denoiser, "square")
    with edited(denoiser, erased):
        after = probe(denoiser, "circle")
    assert (after - anchor).square().mean() < 0.5 * (before - anchor).square().mean()
    assert torch.equal(probe(denoiser, "circle"), before)


@pytest.mark.parametrize("rank", [0, 2])
def test_deltas_are_zero_at_first_and_off_means_off(rank: int) -> None:
    denoiser = ToyDenoiser()
    answer = probe(denoiser, "circle")
    deltas = Deltas(denoiser.layers("all"), rank, torch.Generator().manual_seed(0))
    with deltas.attached():
        assert torch.equal(probe(denoiser, "circle"), answer)
        with torch.no_grad():
            for parameter in deltas.parameters():
                parameter += 0.1
        assert not torch.equal(probe(denoiser, "circle"), answer), "the deltas do nothing"
        with deltas.disabled():
            assert torch.equal(probe(denoiser, "circle"), answer)
            with deltas.disabled():
                pass
            assert torch.equal(probe(denoiser, "circle"), answer), "the inner context switched the deltas on"
    assert torch.equal(probe(denoiser, "circle"), answer)


@pytest.mark.parametrize("name", METHODS)
def test_settings_out_of_range_are_named(name: str) -> None:
    for field in dataclasses.fields(METHODS[name]):
        high = field.metadata.get("maximum")
        if high is not None:
            with pytest.raises(ValueError, match=field.name):
                METHODS[name](**{field.name: type(field.default)(high + 1)})
        if field.metadata.get("choices"):
            with pytest.raises(ValueError, match="choose one of"):
                METHODS[name](**{field.name: "nonsense"})


@pytest.mark.parametrize("name", TRAINED)
def test_a_loss_that_is_not_finite_stops_the_run(name: str) -> None:
    denoiser = ToyDenoiser()
    denoiser.network["block"].to_out.bias.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="optimiser step 1 of 4"):
        run(name, denoiser)


@pytest.mark.parametrize("name", METHODS)
def test_a_concept_that_the_text_encoder_cannot_see_is_named(name: str) -> None:
    with pytest.raises(ValueError, match="sees nothing"):
        run(name, ToyDenoiser(), parse_request("cir\x00cle"))


@pytest.mark.parametrize("search", ["scan", "gumbel", "random", "none"])
def test_every_search_of_ap_runs_and_says_what_it_preserved(search: str) -> None:
    report = Report()
    make("ap", search=search, vocabulary="model_words").erase(ToyDenoiser(), parse_request("circle", "square"), report)
    assert sum(report.adversarial.values()) > 0
    assert (set(report.adversarial) == {""}) == (search == "none")
