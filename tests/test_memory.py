"""What a run needs of memory is said before it starts, and a run that has less goes on and says so."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator

import pytest
import torch
from concept_erasure.erasure_core import memory
from concept_erasure.erasure_core.adapters import Deltas
from concept_erasure.erasure_core.checkpointing import by_block, wrapped
from concept_erasure.erasure_core.concepts import parse_request
from concept_erasure.erasure_core.erased_unet import ErasedUNet
from concept_erasure.erasure_core.memory import MARGIN, Activations, Needs, activations, planned
from concept_erasure.erasure_core.method import methods
from concept_erasure.erasure_core.report import Report
from concept_erasure.erasure_core.trained import TrainedMethod
from concept_erasure.erasure_core.trajectory import TrajectoryPool
from erasure_tests.runs import base_hash
from erasure_tests.small import make
from erasure_tests.toy import ToyDenoiser
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from benchmarks.live_memory import LiveMemory

CPU, GPU = torch.device("cpu"), torch.device("cuda")
TRAINED = [name for name, method in methods().items() if issubclass(method, TrainedMethod)]
ROWS, WIDTH = 64, 32
ONE = ROWS * WIDTH * 4
"""The bytes of one activation of a `Chain`."""
FACTOR = 1.5
"""At least so many times less memory a pass of the playground's UNet takes with checkpointing."""


class Block(nn.Module):
    """Does what real blocks do: reads a note in a dictionary, which decides the result, and writes to its input."""

    def forward(self, x: Tensor, options: dict[str, int]) -> Tensor:
        """As the class says."""
        x.mul_(1.5)
        for _ in range(3):
            x = x.sin() if options["place"] else x.cos()
        return x + 0.0


class Chain(nn.Module):
    """Four blocks, and the note that says which is run."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.blocks = nn.Parameter(torch.ones(WIDTH)), nn.ModuleList(Block() for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """(n, width) -> (n, width)."""
        options = {}
        x = x * self.scale
        for place, block in enumerate(self.blocks):
            options["place"] = place
            x = block(x, options)
        return x


def gradient(chain: Chain) -> Tensor:
    """Of the chain's only parameter."""
    noisy = torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(0))
    return torch.autograd.grad(chain(noisy).square().mean(), chain.scale)[0]


def with_the_input_as_it_was_left(forward):
    """A block computed again in the simple way."""
    return lambda x, options: checkpoint(lambda y: forward(y, dict(options)), x, use_reentrant=False)


def with_the_notes_as_they_were_left(forward):
    """The same, with a copy of the input."""
    return lambda x, options: checkpoint(lambda y: forward(y.clone(), options), x, use_reentrant=False)


def test_checkpointing_computes_again_what_was_computed_at_first() -> None:
    chain = Chain()
    plain = gradient(chain)
    with by_block(chain.blocks):
        assert torch.equal(gradient(chain), plain)
    assert not any("forward" in vars(block) for block in chain.blocks)
    assert torch.equal(gradient(chain), plain)
    with wrapped(chain.blocks, with_the_notes_as_they_were_left):
        assert not torch.allclose(gradient(chain), plain, rtol=1e-3, atol=0), (
            "the control: no wrong second call can be told"
        )
    with pytest.raises(RuntimeError, match="inplace"), wrapped(chain.blocks, with_the_input_as_it_was_left):
        gradient(chain)


def test_a_block_whose_forward_was_replaced_before_gets_that_one_back() -> None:
    block = Block()
    block.forward = own = lambda x, options: x.exp()
    with pytest.raises(KeyError), by_block([block]):
        assert block.forward is not own
        raise KeyError
    assert block.forward is own


class Powers(nn.Module):
    """Saves `saves` activations: the result of each exponential."""

    def __init__(self, saves: int) -> None:
        super().__init__()
        self.saves = saves

    def forward(self, x: Tensor) -> Tensor:
        """As the class says."""
        for _ in range(self.saves):
            x = x.exp()
        return x


@pytest.mark.parametrize("sizes", [(3, 5, 2), (1, 1, 1)])
def test_the_bytes_that_are_held_are_counted(sizes: tuple[int, ...]) -> None:
    """A multiplication saves its other factor, an exponential its result, each once: known by hand."""
    blocks, scale = nn.ModuleList(map(Powers, sizes)), nn.Parameter(torch.zeros(ROWS, WIDTH))
    x = torch.ones(ROWS, WIDTH)

    def call() -> Tensor:
        return nn.Sequential(*blocks)(x * scale)

    held = activations(call, blocks, [x, scale])
    assert held == Activations(sum(sizes) * ONE, len(sizes) * ONE, tuple(size * ONE for size in sizes))
    assert activations(call, [], [x, scale]) == Activations(sum(sizes) * ONE, sum(sizes) * ONE)
    assert activations(call, [], [scale]).everything == (sum(sizes) + 1) * ONE, "without saying that the latents stay"
    for on in (False, True):  # and really: a gradient and what the present operation makes besides
        with LiveMemory() as live, by_block(blocks if on else []):
            call().sum().backward()
        assert held.held(on) <= live.peak <= held.held(on) + 4 * ONE, on


def test_plans_go_from_the_fastest_to_the_smallest() -> None:
    needs = Needs(4, edit=100, samples=50, activations=lambda n: Activations(40.0 * n, 8.0 * n, (3.0 * n, 4.0 * n)))
    plans = list(needs.plans(GPU, "auto", True))
    assert [(plan.at_once, plan.checkpointing) for plan in plans[::2]] == [
        (4, False),
        (4, True),
        (2, False),
        (1, False),
        (2, True),
        (1, True),
    ]
    assert [plan.samples_on for plan in plans] == [GPU, CPU] * 6
    assert plans[0].needs == 100 + MARGIN * 160 + 50 and plans[1].needs == 100 + MARGIN * 160
    assert plans[2].needs == 100 + MARGIN * 48 + 50
    assert {plan.checkpointing for plan in needs.plans(GPU, "on", True)} == {True}
    assert {plan.checkpointing for plan in needs.plans(GPU, "off", True)} == {False}
    assert [plan.at_once for plan in needs.plans(CPU, "auto", False)] == [4], "a method that cannot go in parts"


def test_the_block_that_is_largest_for_many_samples_is_seen_from_two(monkeypatch) -> None:
    """A block with large weights is the largest for one sample and for two, one with large activations for eight."""

    def measured_for(n: int) -> Activations:
        return Activations(100.0, 10.0, (100.0 + 1.0 * n, 20.0 * n))

    sizes = iter((measured_for(1), measured_for(2)))
    monkeypatch.setattr(memory, "activations", lambda *_: next(sizes))
    toy = ToyDenoiser()
    grows = memory.measured(toy, {}, [])
    assert [grows(n).held(True) for n in (1, 2, 8)] == [111.0, 112.0, 170.0]


MB = 1e6


@pytest.mark.parametrize(
    ("free", "expected", "says"),
    [
        (201, (4, False), "201.0 MB free; batches whole, samples kept on cpu"),
        (199, (4, True), "199.0 MB free; batches whole, gradient checkpointing, samples kept on cpu"),
        (59, (1, False), "59.0 MB free; batches of 4 in parts of 1, samples kept on cpu"),
        (
            10,
            (1, True),
            "in parts of 1, gradient checkpointing, samples kept on cpu; that may be too little, and is tried",
        ),
    ],
)
def test_the_fastest_plan_that_fits_is_taken_and_said(free, expected, says, monkeypatch) -> None:
    """Whole 4 x 40 MB, checkpointed 4 x 12 MB, single 40 or 12 MB, each times 1.25; the toy's edit is below 0.1 MB."""

    def known(*_arguments: object):
        return lambda n: Activations(n * 40 * MB, n * 8 * MB, (n * 4 * MB,))

    monkeypatch.setattr(memory, "measured", known)
    toy, report = ToyDenoiser(), Report()
    toy.free = int(free * MB)
    plan = planned(toy, toy_deltas(toy).parameters(), toy.blocks("checkpointed"), report, step=4, kept=10)
    assert (plan.at_once, plan.checkpointing) == expected
    assert report.notes[0].startswith("memory: about ") and report.notes[0].endswith(says)


def test_what_is_measured_of_one_and_two_samples_holds_for_more(monkeypatch) -> None:
    toy, report = ToyDenoiser(), Report()
    deltas = toy_deltas(toy)
    with deltas.attached():
        for step in (1, 2, 5):
            plan = planned(toy, deltas.parameters(), {}, report, step=step, kept=0)
            arguments = toy.empty_latents(step), toy.sigmas(2)[:1].expand(step), toy.encode([""]).repeat(step)
            stays = [*toy.network.parameters(), *deltas.parameters()]
            held = activations(lambda: toy.predict(*arguments), [], stays).everything  # noqa: B023
            assert plan.needs == 4 * sum(parameter.numel() * 4 for parameter in deltas.parameters()) + MARGIN * held
    assert report.costs["UNet_evaluations_to_measure_memory"] == 9


def toy_deltas(toy: ToyDenoiser) -> Deltas:
    """Trainable deltas on the toy."""
    return Deltas(toy.layers("cross_attention_kv"), 2, torch.Generator().manual_seed(0))


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
@pytest.mark.parametrize("name", ["ap", "esd", "sdd"])
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
    report = Report()
    erased = make(name, checkpointing=checkpointing).erase(ToyDenoiser(), parse_request("circle"), report)
    measured = 2
    cannot = any("cannot use checkpointing" in note for note in report.notes)
    assert any(seen[measured:]) == (checkpointing == "on" and methods()[name].in_parts)
    assert cannot == (checkpointing == "on" and not methods()[name].in_parts)
    assert same(erased, expected)


@pytest.mark.usefixtures("few_words")
@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("changes", [{}, {"batch": 3, "preserved": 6}, {"schedule": "reference"}])
def test_no_run_needs_more_samples_than_it_planned_for(name: str, changes: dict, monkeypatch) -> None:
    asked, pools = [], []
    real, filled = ToyDenoiser.predict, TrajectoryPool.fill

    def predict(self, latents, sigma, conditioning):
        asked.append(len(sigma) if torch.is_grad_enabled() and len(asked) >= 2 else 0)  # the first two measure
        return real(self, latents, sigma, conditioning)

    def fill(self, concepts, chains, steps=None):
        filled(self, concepts, chains, steps)
        pools.append((self, *concepts))

    monkeypatch.setattr(ToyDenoiser, "predict", predict)
    monkeypatch.setattr(TrajectoryPool, "fill", fill)
    method, request = make(name, search="scan", **changes), parse_request("circle\nsquare", "ring")
    method.erase(ToyDenoiser(), request, Report())
    concepts = {word: pool for pool, *words in pools for word in words}
    kept = sum(len(pool.samples(word).sigma) for word, pool in concepts.items())
    assert max(asked) <= method.samples_in_a_step(request)
    assert kept <= method.samples_kept(request)


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
def test_checkpointing_lowers_the_peak_of_a_real_unet_and_the_plan_knows_both(bed) -> None:
    """The playground's UNet at 128x128, forward and backward, by what exists at a time to the byte."""
    from concept_erasure.nodes import host

    n, peaks = 8, {}
    with host.opened(bed.model, bed.clip, 128, 128) as denoiser:
        deltas = Deltas(denoiser.layers("cross_attention_kv"), 8, torch.Generator().manual_seed(0))
        blocks = denoiser.blocks("checkpointed")
        arguments = denoiser.empty_latents(n), denoiser.sigmas(2)[:1].expand(n), denoiser.encode(["circle"] * n)
        with deltas.attached():
            known = memory.measured(denoiser, blocks, deltas.parameters())(n)
            for on in (False, True):
                with LiveMemory() as live, by_block(blocks.values() if on else []):
                    predicted = denoiser.predict(*arguments)
                    torch.autograd.grad(predicted.square().mean(), deltas.parameters())
                peaks[on] = live.peak
    assert peaks[False] > FACTOR * peaks[True]
    for on, peak in peaks.items():
        assert 0.6 * peak < MARGIN * known.held(on) < 1.6 * peak, (on, peak, known)


@pytest.fixture
def loaded(bed) -> Iterator[types.SimpleNamespace]:
    """ComfyUI's list of models on the device: another one, and the playground's."""
    from comfy import model_management

    real = model_management.current_loaded_models
    own, other = (
        types.SimpleNamespace(model=types.SimpleNamespace(model=model)) for model in (bed.model.model, object())
    )
    model_management.current_loaded_models = [other, own, types.SimpleNamespace(model=None)]
    yield own
    model_management.current_loaded_models = real


def test_the_host_is_asked_for_room_and_the_model_itself_stays(bed, loaded, monkeypatch) -> None:
    from comfy import model_management
    from concept_erasure.nodes.host.services import make_room

    asked = []
    monkeypatch.setattr(model_management, "extra_reserved_memory", lambda: 100)
    monkeypatch.setattr(model_management, "get_free_memory", lambda device: 1000)
    monkeypatch.setattr(
        model_management, "free_memory", lambda wanted, device, keep_loaded: asked.append((wanted, device, keep_loaded))
    )
    patcher = types.SimpleNamespace(model=bed.model.model, load_device=GPU)
    assert make_room(patcher, 700) == 900 and asked == [(800, GPU, [loaded])]
    patcher.load_device = CPU
    assert make_room(patcher, 700) == 1000 and len(asked) == 1, "on the CPU no model makes room for another"


@pytest.mark.usefixtures("as_a_node_runs", "few_words")
def test_when_nothing_fits_the_error_says_what_to_lower_and_the_model_is_unchanged(bed, monkeypatch) -> None:
    from concept_erasure.nodes.erase import erase
    from concept_erasure.nodes.host import ComfyDenoiser

    real, before = ComfyDenoiser.predict, base_hash(bed)

    def predict(self, latents, sigma, conditioning):
        if torch.is_grad_enabled():
            raise torch.OutOfMemoryError("out of memory")
        return real(self, latents, sigma, conditioning)

    request, size = parse_request("circle"), (64, 64)
    whole, _ = erase(bed.model, bed.clip, request, make("esd", steps=1), *size)
    monkeypatch.setattr(ComfyDenoiser, "predict", predict)
    with pytest.raises(
        RuntimeError, match=r"out of memory while erasing at 64x64 with esd\. Lower .*the model is unchanged"
    ):
        erase(bed.model, bed.clip, request, make("esd", steps=1), *size)
    with pytest.raises(RuntimeError, match="or set checkpointing to auto; the model is unchanged"):
        erase(bed.model, bed.clip, request, make("esd", steps=1, checkpointing="off"), *size)
    network = bed.model.model.diffusion_model
    assert base_hash(bed) == before and not any("forward" in vars(module) for module in network.modules())
    monkeypatch.setattr(ComfyDenoiser, "predict", real)
    again, _ = erase(bed.model, bed.clip, request, make("esd", steps=1), *size)
    assert all(torch.equal(again.tensors[key], value) for key, value in whole.tensors.items())
