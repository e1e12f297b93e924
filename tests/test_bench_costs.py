"""What the benchmarks of cost make of their figures: parts, growth, ratios, memory."""

from __future__ import annotations

import sys
from collections import Counter

import pytest
import torch
from concept_erasure.erasure_core.concepts import parse_request
from concept_erasure.erasure_core.report import Report
from concept_erasure.erasure_core.training import trajectory
from erasure_tests.families import small_model
from erasure_tests.small import make
from erasure_tests.toy import ToyDenoiser
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks import end_to_end, sampling_cost, scaling, true_shapes
from benchmarks.instruments import estimated_gpu_memory
from benchmarks.instruments.peak_tensor_memory import LiveMemory
from benchmarks.instruments.random_models import RandomText, random_model
from benchmarks.instruments.stopwatch import STEPS, Stopwatch, counters, parts_of_ap
from benchmarks.speed import OURS, PUBLISHED
from devtools.hosting import inprocess
from devtools.hosting.errors import ToolError
from devtools.hosting.inprocess import load_comfy


def watch_of(**seconds: float) -> Stopwatch:
    """A stopwatch that has found these seconds, and ten evaluations a second, by the path of a part."""
    watch = Stopwatch(lambda: {"cpu": 0.0})
    watch.parts = {tuple(path.split("__")): Counter(cpu=s, evaluations=10 * s) for path, s in seconds.items()}
    return watch


def test_a_part_costs_what_is_in_no_part_inside_it() -> None:
    now = [0.0]
    watch = Stopwatch(lambda: {"cpu": now[0]})

    class Work:
        def inner(self, seconds: float) -> None:
            now[0] += seconds

        def outer(self) -> None:
            now[0] += 1.0
            self.inner(5.0)

    with watch.within(Work, "inner", "inner"), watch.within(Work, "outer", "outer"):
        Work().outer()
        with pytest.raises(TypeError):
            Work().inner("no number")
        Work().inner(2.0)
    now[0] += 0.5
    watch.stop()
    costs = {path: part["cpu"] for path, part in watch.parts.items()}
    assert costs == {(): 0.5, ("outer",): 1.0, ("outer", "inner"): 5.0, ("inner",): 2.0}
    Work().outer()
    watch.stop()
    assert watch.cost("cpu", lambda path: "inner" in path) == 7.0, "the functions are again what they were"


class Counted(ToyDenoiser):
    """The toy, counting as the host's denoiser does."""

    evaluations = property(lambda self: self.calls)


def test_an_erasure_is_divided_without_a_remainder() -> None:
    load_comfy()
    denoiser = Counted()
    watch = Stopwatch(counters(denoiser))
    with parts_of_ap(watch):
        make("ap").erase(denoiser, parse_request("one => two"), Report())
    watch.stop()
    assert watch.cost("evaluations") == denoiser.calls
    for wanted in (("sampling runs",), (STEPS, "search"), (STEPS, "forward"), (STEPS, "teacher")):
        assert watch.parts[wanted]["evaluations"] > 0, wanted
    assert watch.parts[STEPS, "backward"]["cpu"] > 0 and ("candidates",) in watch.parts
    fixed, steps = (watch.cost("evaluations", scaling.COLUMNS[name]) for name in ("fixed", "steps"))
    assert fixed + steps == denoiser.calls


def test_columns_tell_the_steps_from_what_comes_before() -> None:
    watch = watch_of(text=1, **{"candidates__text": 2, "steps": 4, "steps__text": 8, "steps__sampling runs": 16})
    watch.parts["steps", "sampling runs", "text"] = Counter(cpu=32.0)
    costs = {name: watch.cost("cpu", chosen) for name, chosen in scaling.COLUMNS.items()}
    assert (costs["text"], costs["text of the steps"], costs["runs and teacher of the steps"]) == (3, 40, 16)
    assert (costs["fixed"], costs["steps"], costs["in all"]) == (3, 60, 63)


def test_growth_is_an_exponent_and_a_verdict() -> None:
    assert scaling.growth([(1, 5.0), (2, 8.0), (10, 32.0)])["at_most_linear"]
    squared = scaling.growth([(1, 3.0), (2, 12.0), (4, 48.0)])
    assert squared == {"exponent": 2.0, "exponent_of_the_last_two": 2.0, "at_most_linear": False}


def test_a_steady_slowdown_cancels_and_only_more_than_the_noise_counts() -> None:
    clock = iter((1.0, 1.1, 1.2, 1.3))
    assert sampling_cost.abba(lambda: next(clock), lambda: next(clock)) == (pytest.approx(1.0), pytest.approx(1.15))
    plain = {"edit": sampling_cost.BASE, "prompt": "any", "ratio": 1.0, "low": 0.98, "high": 1.01}
    wide, slow = {"edit": "esd", "ratio": 1.03, "low": 1.01}, {"edit": "dumo", "ratio": 1.3, "low": 1.25}
    found = sampling_cost.summary([plain, plain | wide, plain | slow])
    assert found["noise"] == 0.02
    assert not found["esd, any"]["adds_time"] and found["dumo, any"]["adds_time"]


def network_step() -> None:
    """A forward and a backward pass whose activations are larger than its weights."""
    network = torch.nn.Sequential(torch.nn.Linear(10, 50), torch.nn.ReLU(), torch.nn.Linear(50, 10))
    network(torch.ones(1000, 10)).square().sum().backward()


def test_live_bytes_are_those_of_the_tensors_alive_at_one_time() -> None:
    with LiveMemory() as live:
        one = torch.ones(1000)
        view = one[:500].reshape(50, 10)
        two = one + 1
        assert live.now == live.peak == 8000
        one.add_(view.sum())
        del two
        assert live.now == 4000
    assert live.peak == 8004
    with LiveMemory() as real:
        network_step()
    with FakeTensorMode(), LiveMemory() as estimated:
        network_step()
    assert estimated.peak == real.peak > 1000 * 50 * 4 and real.now == 0


def test_samples_of_noise_have_the_shape_of_drawn_ones() -> None:
    denoiser = ToyDenoiser()
    conditioning, generator = denoiser.encode(["one", "two"]), torch.Generator().manual_seed(0)
    noise, _ = true_shapes.random_trajectories(denoiser, conditioning, 3, 3.0, generator)
    assert denoiser.calls == 0
    drawn, _ = trajectory.sample_trajectories(denoiser, conditioning, 3, 3.0, generator)
    assert torch.equal(noise.sigma, drawn.sigma) and torch.equal(noise.conditioning.tokens, drawn.conditioning.tokens)
    for part in ("latents", "conditional", "unconditional"):
        assert getattr(noise, part).shape == getattr(drawn, part).shape


def test_the_floor_is_the_updates_own_passes_and_no_part_is_lost() -> None:
    watch = watch_of(text=100, steps=1, steps__search=2, steps__search__text=3, steps__forward=4, steps__backward=6)
    found = true_shapes.parts(watch, "cpu", 1)
    assert {name: part["seconds"] for name, part in found.items() if part["seconds"]} == {
        "the rest": 1, "search": 2, "text": 3, "forward": 4, "backward": 6,
    }  # fmt: skip
    row = {"family": "SD15", "parts": found, "seconds_per_update": 16.0}
    expected = [
        {"family": "SD15", "what": "update", "peak_GB": 9.0},
        {"family": "SD15", "what": "update, checkpointed", "peak_GB": 2.0},
        {"family": "SD15", "what": "sampling runs", "peak_GB": 3.5},
        {"family": "SD15", "what": estimated_gpu_memory.PUBLISHED, "peak_GB": 14.0},
    ]
    assert true_shapes.summary(expected, [row]) == {
        "foretold_update_GB_SD15": 2.0,
        "foretold_update_fits_SD15": True,
        "foretold_peak_GB_SD15": 3.5,
        "foretold_published_over_peak_SD15": 4.0,
        "update_over_floor_SD15": 1.6,
    }
    (text,) = true_shapes.tables([], [row | {"key": [], "notes": []}], profile=True)[1:]
    assert "| floor: forward + backward | 10.0 | 100 |" in text


@pytest.mark.parametrize(("family", "parameters"), [("SD15", 859_520_964), ("SDXL", 2_567_463_684)])
def test_random_models_are_recognised_and_of_true_size(family: str, parameters: int) -> None:
    load_comfy()
    model = random_model(family, empty=True)
    assert type(model.model.model_config).__name__ == family
    assert sum(p.numel() for p in model.model.diffusion_model.parameters()) == parameters
    assert {p.dtype for p in model.model.parameters()} == {torch.float16}
    text = RandomText(family)
    states, more = text.encode_from_tokens_scheduled(text.tokenize("a cat"))[0]
    assert states.shape == (1, 77, {"SD15": 768, "SDXL": 2048}[family]) and not torch.equal(states[0, 0], states[0, 1])
    assert (more["pooled_output"] is None) == (family == "SD15")


def test_a_device_is_named_by_what_this_comfyui_starts_with(monkeypatch) -> None:
    load_comfy()
    from comfy.cli_args import parser

    for flags in inprocess.FLAGS.values():
        parser.parse_args(list(flags))  # a flag that is gone would end the program
    monkeypatch.delitem(sys.modules, "comfy.cli_args")
    with pytest.raises(ToolError, match="'tpu'; set it to one of cpu, cuda"):
        load_comfy("tpu")


def test_a_whole_run_at_true_shape_is_measured_by_both_loops(few_words, monkeypatch) -> None:
    """At 64 pixels and two steps, on the CPU: what a GPU does at its defaults."""
    load_comfy()
    small = small_model("SD1.5")
    monkeypatch.setattr(end_to_end, "random_model", lambda _family: small.model)
    monkeypatch.setattr(end_to_end, "RandomText", lambda _family: small.clip)
    monkeypatch.setattr(end_to_end, "SIZES", {"SD15": 64})
    few = {"candidates": 4, "sampling_steps": 3, "steps": 3}
    rows = [
        end_to_end.whole_run("SD15", OURS, few | {"trajectories": 1, "retain_sampling_steps": 2}),
        end_to_end.whole_run("SD15", PUBLISHED, few),
    ]
    assert [row["updates"] for row in rows] == [3, 3] and rows[0]["UNet_evaluations"] < 300
    assert rows[1]["UNet_evaluations"] == end_to_end.published_evaluations()
    found = end_to_end.summary([rows[0] | {"settings": "defaults"}, rows[1]])
    assert found["unet_evaluations_ratio_SD15"] > 500 and found["wall_ratio_SD15"] > 100 and found["in_time_SD15"]


def test_the_published_loops_evaluations_are_counted_from_its_settings() -> None:
    """1,999 loops: two latents of 24.5 guided steps each on average, three teachers, two samples with gradient."""
    assert end_to_end.published_evaluations() == 195902 + 5997 + 3998
