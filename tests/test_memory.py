"""What a run needs of memory is counted, and said before it starts."""

from __future__ import annotations

import pytest
import torch
from concept_erasure.erasure_core.memory import planning
from concept_erasure.erasure_core.memory.checkpointing import by_block, wrapped
from concept_erasure.erasure_core.memory.planning import MARGIN, Activations, Needs, activations, planned
from concept_erasure.erasure_core.report import Report
from concept_erasure.erasure_core.training.deltas import Deltas
from erasure_tests.toy import ToyDenoiser
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from benchmarks.instruments.peak_tensor_memory import LiveMemory

CPU, GPU = torch.device("cpu"), torch.device("cuda")
ROWS, WIDTH = 64, 32
ONE = ROWS * WIDTH * 4
"""The bytes of one activation of a `Chain`."""


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
    assert [(plan.micro_batch, plan.checkpointing) for plan in plans[::2]] == [
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
    whole = [(plan.micro_batch, plan.checkpointing) for plan in needs.plans(CPU, "auto", False)]
    assert whole == [(4, False), (4, True)], "a method that cannot go in parts"


def test_the_block_that_is_largest_for_many_samples_is_seen_from_two(monkeypatch) -> None:
    """A block with large weights is the largest for one sample and for two, one with large activations for eight."""

    def measured_for(n: int) -> Activations:
        return Activations(100.0, 10.0, (100.0 + 1.0 * n, 20.0 * n))

    sizes = iter((measured_for(1), measured_for(2)))
    monkeypatch.setattr(planning, "activations", lambda *_: next(sizes))
    toy = ToyDenoiser()
    grows = planning.measured(toy, {}, [])
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

    monkeypatch.setattr(planning, "measured", known)
    toy, report = ToyDenoiser(), Report()
    toy.free = int(free * MB)
    plan = planned(toy, toy_deltas(toy).parameters(), toy.blocks("checkpointed"), report, step=4, samples=10)
    assert (plan.micro_batch, plan.checkpointing) == expected
    assert report.notes[0].startswith("memory: about ") and report.notes[0].endswith(says)


def test_what_is_measured_of_one_and_two_samples_holds_for_more(monkeypatch) -> None:
    toy, report = ToyDenoiser(), Report()
    deltas = toy_deltas(toy)
    with deltas.attached():
        for step in (1, 2, 5):
            plan = planned(toy, deltas.parameters(), {}, report, step=step, samples=0)
            arguments = toy.empty_latents(step), toy.sigmas(2)[:1].expand(step), toy.encode([""]).repeat(step)
            stays = [*toy.network.parameters(), *deltas.parameters()]
            held = activations(lambda: toy.predict(*arguments), [], stays).everything  # noqa: B023
            assert plan.needs == 4 * sum(parameter.numel() * 4 for parameter in deltas.parameters()) + MARGIN * held
    assert report.costs["UNet_evaluations_to_measure_memory"] == 9


def toy_deltas(toy: ToyDenoiser) -> Deltas:
    """Trainable deltas on the toy."""
    return Deltas(toy.layers("cross_attention_kv"), 2, torch.Generator().manual_seed(0))
