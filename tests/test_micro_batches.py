"""Micro-batches give the predictions and gradients of the whole batch, and only running out of memory makes them."""

from __future__ import annotations

import pytest
import torch
from concept_erasure.erasure_core.concepts import parse_request
from concept_erasure.erasure_core.denoiser import Conditioning
from concept_erasure.erasure_core.memory.micro_batches import MicroBatched
from concept_erasure.erasure_core.report import Report
from concept_erasure.erasure_core.training.deltas import Deltas
from erasure_tests.small import make
from erasure_tests.toy import ToyDenoiser
from torch import Tensor

WORDS = ("disc", "square", "red", "star", "ring")


class Small:
    """A toy that can take `fits` samples at once."""

    def __init__(self, fits: int) -> None:
        self.toy, self.fits, self.calls = ToyDenoiser(), fits, []
        self.deltas = Deltas(self.toy.layers("cross_attention_kv"), 0, torch.Generator().manual_seed(0))

    def predict(self, latents: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        self.calls.append(len(sigma))
        if len(sigma) > self.fits:
            raise MemoryError("too many")
        return self.toy.predict(latents, sigma, conditioning)

    def run(self, fits: int, said: list[str]) -> tuple[Tensor, list[Tensor]]:
        """Predictions for five samples, and the gradients of all deltas."""
        self.fits, self.calls = fits, []
        noisy = torch.randn(5, 4, 4, 4, generator=torch.Generator().manual_seed(1))
        predict = MicroBatched(self.predict, said.append, self.deltas.parameters())
        with self.deltas.attached():
            predicted = predict(noisy, torch.linspace(1, 9, 5), self.toy.encode(WORDS))
            return predicted, list(torch.autograd.grad(predicted.square().sum(), self.deltas.parameters()))


def test_a_batch_that_fits_is_asked_for_at_once() -> None:
    small, said = Small(5), []
    predicted, _ = small.run(5, said)
    with small.deltas.attached():
        noisy = torch.randn(5, 4, 4, 4, generator=torch.Generator().manual_seed(1))
        assert torch.equal(predicted, small.toy.predict(noisy, torch.linspace(1, 9, 5), small.toy.encode(WORDS)))
    assert small.calls == [5] and not said


@pytest.mark.parametrize("fits", [1, 2])
def test_parts_give_the_same_predictions_and_gradients(fits: int) -> None:
    small, said = Small(5), []
    whole, gradients = small.run(5, said)
    predicted, in_parts = small.run(fits, said)
    assert torch.allclose(predicted, whole, atol=1e-6) and any(bool(gradient.any()) for gradient in gradients)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(in_parts, gradients, strict=True))
    forward = {1: [5, 2, 1, 1, 1, 1, 1], 2: [5, 2, 2, 1]}[fits]
    assert small.calls[: len(forward)] == forward
    again = small.calls[len(forward) :]
    assert sum(again) == 5 and max(again) == fits, "in the backward pass each part is computed once more, one at a time"
    assert [text.split(";")[0] for text in said] == [
        f"memory ran out at {n} samples at once" for n in (5, 2)[: 3 - fits]
    ]


def test_without_gradients_nothing_is_computed_twice_and_the_size_is_kept() -> None:
    small = Small(2)
    predict = MicroBatched(small.predict)
    with torch.no_grad():
        for _ in range(2):
            predict(torch.zeros(4, 4, 4, 4), torch.ones(4), small.toy.encode(WORDS[:4]))
    assert small.calls == [4, 2, 2, 2, 2]


def test_a_single_sample_that_does_not_fit_and_other_errors_are_raised() -> None:
    small = Small(0)
    with pytest.raises(MemoryError):
        small.run(0, [])
    assert small.calls == [5, 2, 1]
    broken = MicroBatched(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        broken(torch.zeros(4, 4, 4, 4), torch.ones(4), small.toy.encode(WORDS[:4]))


@pytest.mark.usefixtures("few_words")
@pytest.mark.parametrize("name", ["ap", "esd", "spm", "kpop"])
def test_a_run_goes_on_in_parts_and_says_so_unless_its_method_listens_to_the_network(name: str, monkeypatch) -> None:
    """A part is computed again in the backward pass, when the changes of kpop's key are off again."""
    request, whole = parse_request("circle"), ToyDenoiser()
    expected = make(name, search="none", batch=4).erase(whole, request, Report())
    small, report, plain = ToyDenoiser(), Report(), ToyDenoiser.predict

    def predict(self, latents, sigma, conditioning):
        if torch.is_grad_enabled() and len(sigma) > 2:
            raise RuntimeError("[enforce fail] can't allocate memory: you tried to allocate 1 bytes")
        return plain(self, latents, sigma, conditioning)

    monkeypatch.setattr(ToyDenoiser, "predict", predict)
    if name == "kpop":
        with pytest.raises(RuntimeError, match="allocate memory"):
            make(name, batch=4).erase(small, request, report)
        return
    erased = make(name, search="none", batch=4).erase(small, request, report)
    assert any(note.startswith("memory ran out at ") for note in report.notes)
    assert all(torch.allclose(erased.tensors[key], value, atol=1e-3) for key, value in expected.tensors.items())
