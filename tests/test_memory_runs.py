"""A run that has less memory than it needs goes on, by parts and by checkpointing, and says so."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field

import pytest
import torch
from concept_erasure.erasure_core.concepts import parse_request
from concept_erasure.erasure_core.erased_unet import ErasedUNet
from concept_erasure.erasure_core.memory import planning
from concept_erasure.erasure_core.memory.checkpointing import by_block
from concept_erasure.erasure_core.memory.planning import MARGIN
from concept_erasure.erasure_core.method import methods
from concept_erasure.erasure_core.report import Report
from concept_erasure.erasure_core.training import trained
from concept_erasure.erasure_core.training.deltas import Deltas
from concept_erasure.erasure_core.training.trajectory import TrajectoryPool
from erasure_tests.runs import base_hash
from erasure_tests.small import make
from erasure_tests.toy import ToyDenoiser
from torch import Tensor

from benchmarks.instruments.peak_tensor_memory import LiveMemory

CPU, GPU = torch.device("cpu"), torch.device("cuda")
TRAINED = {name: method for name, method in methods().items() if issubclass(method, trained.GradientMethod)}
WHOLE = [name for name, method in TRAINED.items() if not method.in_micro_batches]
FACTOR = 1.5
"""At least so many times less memory a pass of the playground's UNet takes with checkpointing."""


def limited(monkeypatch, forward: int = 99, backward: int = 99, frozen: int = 99) -> None:
    """Let the toy run out of memory on more samples than these: in a forward pass with gradient, in its backward pass, and
    without gradients."""
    plain = ToyDenoiser.predict

    def predict(self, latents: Tensor, sigma: Tensor, conditioning) -> Tensor:
        n = len(sigma)
        if n > (forward if torch.is_grad_enabled() else frozen):
            raise torch.OutOfMemoryError(f"out of memory on {n} samples")
        predicted = plain(self, latents, sigma, conditioning)
        if predicted.requires_grad and n > backward:

            def run_out(_gradient: Tensor) -> None:
                raise torch.OutOfMemoryError(f"out of memory in the backward pass of {n} samples")

            predicted.register_hook(run_out)
        return predicted

    monkeypatch.setattr(ToyDenoiser, "predict", predict)


def erased_toy(name: str, report: Report, **changes) -> ErasedUNet:
    """An erasure of the toy's circle, by six samples a step."""
    return make(name, batch=6, search="scan", **changes).erase(ToyDenoiser(), parse_request("circle", "ring"), report)


def same(one: ErasedUNet, other: ErasedUNet) -> bool:
    """Whether two edits are the same to rounding; Adam makes more of that than there was."""
    return all(torch.allclose(one.tensors[key], value, atol=1e-4) for key, value in other.tensors.items())


@pytest.mark.usefixtures("few_words")
@pytest.mark.parametrize("name", ["ap", "esd", "sdd", "spm"])
@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ({"forward": 3}, r"memory ran out at \d+ samples at once; goes on with \d+ at once"),
        ({"backward": 3}, r"memory ran out at \d+ samples at once in the backward pass; goes on with \d+ at once"),
        ({"frozen": 1}, r"memory ran out at 2 samples at once without gradients; goes on with 1"),
    ],
)
def test_a_run_that_runs_out_of_memory_goes_on_to_the_same_edit(name, limits, says, monkeypatch) -> None:
    plenty, short = Report(), Report()
    expected = erased_toy(name, plenty)
    limited(monkeypatch, **limits)
    erased = erased_toy(name, short)
    assert same(erased, expected)
    text = "\n".join(short.notes)
    assert re.search(says, text) and "memory ran out" not in "\n".join(plenty.notes)
    assert not same(erased_toy(name, Report(), seed=1), expected), "the control: edits that differ look the same"


@pytest.mark.usefixtures("few_words")
def test_when_a_single_sample_does_not_fit_checkpointing_is_the_last_resort(monkeypatch) -> None:
    """The toy's memory is known by its block: with gradients it runs out there unless the block is computed again."""
    expected = erased_toy("esd", Report())
    plain = ToyDenoiser.predict

    def predict(self, latents, sigma, conditioning):
        if torch.is_grad_enabled() and conditioning.tokens.any() and "forward" not in vars(self.network["block"]):
            raise torch.OutOfMemoryError("the block's activations do not fit")
        return plain(self, latents, sigma, conditioning)

    monkeypatch.setattr(ToyDenoiser, "predict", predict)
    report = Report()
    assert same(erased_toy("esd", report), expected)
    assert any(
        "at 1 sample at once in the backward pass; goes on with gradient checkpointing, same result" in note
        for note in report.notes
    )
    with pytest.raises(torch.OutOfMemoryError):
        erased_toy("esd", Report(), checkpointing="off")


@pytest.mark.usefixtures("few_words")
@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("checkpointing", ["on", "off"])
def test_checkpointing_is_used_when_asked_for_and_the_edit_is_the_same(
    name: str, checkpointing: str, monkeypatch
) -> None:
    seen = []
    real = ToyDenoiser.predict

    def predict(self, latents, sigma, conditioning):
        seen.append("forward" in vars(self.network["block"]))
        return real(self, latents, sigma, conditioning)

    expected = make(name).erase(ToyDenoiser(), parse_request("circle"), Report())
    monkeypatch.setattr(ToyDenoiser, "predict", predict)
    monkeypatch.setattr(planning, "wrapped", lambda *_: nullcontext())  # so that only checkpointing wraps the block
    erased = make(name, checkpointing=checkpointing).erase(ToyDenoiser(), parse_request("circle"), Report())
    assert any(seen) == (checkpointing == "on")
    assert same(erased, expected)


@dataclass
class Planned:
    """A plan's sizes, and what the runs that it is for asked and kept."""

    step: int
    samples: int
    asked: list[int] = field(default_factory=list)
    kept: dict[TrajectoryPool, set[str]] = field(default_factory=dict)


@pytest.mark.usefixtures("few_words")
@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("changes", [{}, {"batch": 3, "preserved": 6}, {"schedule": "reference"}])
@pytest.mark.parametrize("concepts", ["circle\nsquare", "red circle < circle\nsquare"])
def test_no_run_needs_more_samples_than_it_planned_for(name: str, changes: dict, concepts: str, monkeypatch) -> None:
    plans: list[Planned] = []
    predicted, filled, planned = ToyDenoiser.predict, TrajectoryPool.fill, trained.planned

    def plan(*given, step: int, samples: int, **named):
        made = planned(*given, step=step, samples=samples, **named)
        plans.append(Planned(step, samples))
        return made

    def predict(self, latents, sigma, conditioning):
        if plans and torch.is_grad_enabled():
            plans[-1].asked.append(len(sigma))
        return predicted(self, latents, sigma, conditioning)

    def fill(self, concepts, *given, **named):
        filled(self, concepts, *given, **named)
        plans[-1].kept.setdefault(self, set()).update(concepts)

    monkeypatch.setattr(trained, "planned", plan)
    monkeypatch.setattr(ToyDenoiser, "predict", predict)
    monkeypatch.setattr(TrajectoryPool, "fill", fill)
    make(name, search="scan", **changes).erase(ToyDenoiser(), parse_request(concepts, "ring"), Report())
    (made,) = plans
    assert 0 < max(made.asked) <= made.step
    for pool, words in made.kept.items():
        assert sum(len(pool.samples(word).sigma) for word in words) <= made.samples


def test_samples_are_kept_where_the_plan_says() -> None:
    toy = ToyDenoiser()
    pool = TrajectoryPool(toy, steps=2, guidance_scale=3.0, generator=torch.Generator().manual_seed(0))
    pool.fill(["circle"], 2)
    assert pool.draw("circle", 1)[0].latents.device == CPU
    pool.kept_on = torch.device("meta")  # a device that keeps nothing, so that what was kept there cannot come back
    pool.fill(["square"], 2)
    with pytest.raises(NotImplementedError, match="meta"):
        pool.draw("square", 1)


@pytest.mark.usefixtures("as_a_node_runs")
def test_checkpointing_lowers_the_peak_of_a_real_unet_and_the_plan_knows_both(testbed) -> None:
    """The playground's UNet at 128x128, forward and backward, by what exists at a time to the byte."""
    from concept_erasure.nodes import host

    n, peaks = 8, {}
    with host.open_session(testbed.model, testbed.clip, 128, 128) as denoiser:
        deltas = Deltas(denoiser.layers("cross_attention_kv"), 8, torch.Generator().manual_seed(0))
        blocks = denoiser.blocks("checkpointed")
        arguments = denoiser.empty_latents(n), denoiser.sigmas(2)[:1].expand(n), denoiser.encode(["circle"] * n)
        with deltas.attached():
            known = planning.measured(denoiser, blocks, deltas.parameters())(n)
            for on in (False, True):
                with LiveMemory() as live, by_block(blocks.values() if on else []):
                    predicted = denoiser.predict(*arguments)
                    torch.autograd.grad(predicted.square().mean(), deltas.parameters())
                peaks[on] = live.peak
    assert peaks[False] > FACTOR * peaks[True]
    for on, peak in peaks.items():
        assert 0.6 * peak < MARGIN * known.held(on) < 1.6 * peak, (on, peak, known)


@pytest.mark.usefixtures("as_a_node_runs", "few_words")
@pytest.mark.parametrize("name", WHOLE)
def test_checkpointing_also_serves_methods_that_act_on_the_network_around_a_prediction(name: str, testbed) -> None:
    """What they hear of the network, and how they change it, is the same when a real UNet's block is computed again."""
    from concept_erasure.nodes import host

    edits, peaks = {}, {}
    with host.open_session(testbed.model, testbed.clip, 64, 64) as denoiser:
        for checkpointing in ("off", "on"):
            method = make(name, batch=8, steps=1, trajectories=1, sentences=2, checkpointing=checkpointing)
            with LiveMemory() as live:
                edits[checkpointing] = method.erase(denoiser, parse_request("circle"), Report())
            peaks[checkpointing] = live.peak
    assert same(edits["on"], edits["off"])
    assert peaks["off"] > FACTOR * peaks["on"]


@pytest.fixture
def loaded(testbed) -> Iterator[types.SimpleNamespace]:
    """ComfyUI's list of models on the device: another one, and the playground's."""
    from comfy import model_management

    real = model_management.current_loaded_models
    own, other = (
        types.SimpleNamespace(model=types.SimpleNamespace(model=model)) for model in (testbed.model.model, object())
    )
    model_management.current_loaded_models = [other, own, types.SimpleNamespace(model=None)]
    yield own
    model_management.current_loaded_models = real


def test_the_host_is_asked_for_room_and_the_model_itself_stays(testbed, loaded, monkeypatch) -> None:
    from comfy import model_management
    from concept_erasure.nodes.host.services import make_room

    asked = []
    monkeypatch.setattr(model_management, "extra_reserved_memory", lambda: 100)
    monkeypatch.setattr(model_management, "get_free_memory", lambda device: 1000)
    monkeypatch.setattr(
        model_management, "free_memory", lambda wanted, device, keep_loaded: asked.append((wanted, device, keep_loaded))
    )
    patcher = types.SimpleNamespace(model=testbed.model.model, load_device=GPU)
    assert make_room(patcher, 700) == 900 and asked == [(800, GPU, [loaded])]
    patcher.load_device = CPU
    assert make_room(patcher, 700) == 1000 and len(asked) == 1, "on the CPU no model makes room for another"


@pytest.mark.usefixtures("as_a_node_runs", "few_words")
def test_when_nothing_fits_the_error_says_what_to_lower_and_the_model_is_unchanged(testbed, monkeypatch) -> None:
    from concept_erasure.nodes.erase import erase
    from concept_erasure.nodes.host import ComfyDenoiser

    real, before = ComfyDenoiser.predict, base_hash(testbed)

    def predict(self, latents, sigma, conditioning):
        if torch.is_grad_enabled():
            raise torch.OutOfMemoryError("out of memory")
        return real(self, latents, sigma, conditioning)

    request, size = parse_request("circle"), (64, 64)
    whole, _ = erase(testbed.model, testbed.clip, request, make("esd", steps=1), *size)
    monkeypatch.setattr(ComfyDenoiser, "predict", predict)
    with pytest.raises(
        RuntimeError, match=r"out of memory while erasing at 64x64 with esd\. Lower .*the model is unchanged"
    ):
        erase(testbed.model, testbed.clip, request, make("esd", steps=1), *size)
    with pytest.raises(RuntimeError, match="or set checkpointing to auto; the model is unchanged"):
        erase(testbed.model, testbed.clip, request, make("esd", steps=1, checkpointing="off"), *size)
    network = testbed.model.model.diffusion_model
    assert base_hash(testbed) == before and not any("forward" in vars(module) for module in network.modules())
    monkeypatch.setattr(ComfyDenoiser, "predict", real)
    again, _ = erase(testbed.model, testbed.clip, request, make("esd", steps=1), *size)
    assert all(torch.equal(again.tensors[key], value) for key, value in whole.tensors.items())
