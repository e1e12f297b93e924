"""Predicts a run's memory before the first step, and chooses micro-batch, checkpointing and storage to fit it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from ..denoiser import Conditioning, Denoiser
from ..report import Report
from .checkpointing import Forward, wrapped
from .micro_batches import says_out_of_memory

MARGIN = 1.25
"""Safety factor on activation memory; kernels also allocate workspace."""
EDIT_COPIES = 4
"""The deltas, their gradients and Adam's two averages."""
SAMPLE_TENSORS = 5
"""Tensors of the latents' size in a kept sample: latents, two predictions of the frozen model, and the desired ones."""


@dataclass
class Counter:
    """Counts the bytes that a forward pass saves for its backward pass, each storage once, and releases them: no backward
    pass can follow. Use `watching()`."""

    apart: set[StorageWeakRef] = field(default_factory=set)
    bytes_of: dict[StorageWeakRef, int] = field(default_factory=dict)

    def add(self, tensor: Tensor) -> None:
        """Count a tensor's memory, unless it is counted or stays anyway."""
        storage = tensor.untyped_storage()
        reference = StorageWeakRef(storage)  # while this lives, its address is not given to another storage
        if reference not in self.apart:
            self.bytes_of[reference] = storage.nbytes()

    def watching(self) -> torch.autograd.graph.saved_tensors_hooks:
        """Inside, everything that is saved is counted; an inner counter takes over what is saved inside of it."""
        return torch.autograd.graph.saved_tensors_hooks(self.add, _nothing_was_held)

    def total(self) -> int:
        """Bytes."""
        return sum(self.bytes_of.values())


def _nothing_was_held(_packed: object) -> Tensor:
    raise RuntimeError("this forward pass only measures memory; it cannot be differentiated")


@dataclass(frozen=True)
class Activations:
    """Bytes that one forward pass holds: everything, and with checkpointing by block what is `between` the blocks and, in
    the backward pass, one of the `blocks` at a time, here in the order of their calls."""

    everything: float
    between: float
    blocks: tuple[float, ...] = ()

    def held(self, checkpointing: bool) -> float:
        """The most that is held at a time."""
        return self.between + max(self.blocks, default=0) if checkpointing else self.everything


def activations(call: Callable[[], object], blocks: Iterable[nn.Module], stays: Iterable[Tensor] = ()) -> Activations:
    """The activations that the forward pass `call` would hold, without holding them; the memory of `stays` is not counted."""
    apart = {StorageWeakRef(tensor.untyped_storage()) for tensor in stays}
    outside, insides = Counter(apart), []
    given_to = Counter(apart)

    def counted(forward: Forward) -> Forward:
        def run(*given: Any, **named: Any) -> Any:
            for value in (*given, *named.values()):
                if torch.is_tensor(value):
                    given_to.add(value)
            insides.append(Counter(apart))
            with insides[-1].watching():
                return forward(*given, **named)

        return run

    with torch.enable_grad(), outside.watching(), wrapped(blocks, counted):
        call()
    union: dict[StorageWeakRef, int] = dict(outside.bytes_of)
    for inside in insides:
        union |= inside.bytes_of
    between = outside.bytes_of | (given_to.bytes_of if insides else {})
    return Activations(sum(union.values()), sum(between.values()), tuple(inside.total() for inside in insides))


def measured(
    denoiser: Denoiser, blocks: Mapping[str, nn.Module], stays: Iterable[Tensor]
) -> Callable[[int], Activations]:
    """The activations of a step of n samples, as a function of n. Those of one and of two samples are measured (three
    evaluations of the network) and a line is drawn through them, for some (weights in another precision) do not grow with
    n. Each block has a line of its own: the largest for one sample need not be the largest for many."""
    weights = [
        tensor
        for module in denoiser.modules().values()
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False))
    ]
    stays, sigma, text = [*weights, *stays], denoiser.sigmas(2)[:1].to(denoiser.device), denoiser.encode([""])

    def of(n: int) -> Activations:
        arguments = denoiser.empty_latents(n), sigma.expand(n), text.repeat(n)
        return activations(lambda: denoiser.predict(*arguments), blocks.values(), stays)

    one, two = of(1), of(2)

    def line(first: float, second: float, n: int) -> float:
        return first + max(0.0, second - first) * (n - 1)

    return lambda n: Activations(
        line(one.everything, two.everything, n),
        line(one.between, two.between, n),
        tuple(line(*block, n) for block in zip(one.blocks, two.blocks, strict=True)),
    )


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """The memory of tensors that share none."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def sample_bytes(denoiser: Denoiser) -> int:
    """Bytes of one kept sample of a trajectory, with its predictions and its prompt."""
    text: Conditioning = denoiser.encode([""])
    return SAMPLE_TENSORS * bytes_of([denoiser.empty_latents(1)]) + bytes_of(text.values.values())


@dataclass(frozen=True)
class Plan:
    """How a run goes: `micro_batch` samples in one pass, with `checkpointing` by block or not, and where its samples are
    kept; `needs` is what that takes on the device, in bytes."""

    micro_batch: int
    checkpointing: bool
    samples_on: torch.device
    needs: float


@dataclass(frozen=True)
class Needs:
    """The input of a plan: the samples of a `step`, the bytes of the `edit` with the optimiser's, and of the kept
    `samples`."""

    step: int
    edit: int
    samples: int
    activations: Callable[[int], Activations]

    def plans(self, device: torch.device, checkpointing: str, in_micro_batches: bool) -> Iterator[Plan]:
        """Every possible plan, the fastest first. Micro-batches and checkpointing each cost one more forward pass, and small
        micro-batches leave a GPU idle; fetching samples from the host costs next to nothing."""
        halves = [self.step >> i for i in range(self.step.bit_length())] if in_micro_batches else [self.step]
        switch = {"on": [True], "off": [False], "auto": [False, True]}[checkpointing]
        ways = [(halves[0], on) for on in switch] + [(size, on) for on in switch for size in halves[1:]]
        places = [device] if device.type == "cpu" else [device, torch.device("cpu")]
        for micro_batch, on in ways:
            held = self.edit + MARGIN * self.activations(micro_batch).held(on)
            for place in places:
                yield Plan(micro_batch, on, place, held + (self.samples if place == device else 0))


def planned(
    denoiser: Denoiser,
    parameters: Iterable[nn.Parameter],
    blocks: Mapping[str, nn.Module],
    report: Report,
    *,
    step: int,
    samples: int,
    checkpointing: str = "auto",
    in_micro_batches: bool = True,
) -> Plan:
    """The plan for steps of `step` samples and `samples` of trajectories; the report says in a line what it needs.
    Three evaluations of the network; the deltas must be attached.

    The host is asked to make room for the fastest plan. If none fits, the one that needs least is tried.
    """
    parameters = list(parameters)
    try:
        grows = measured(denoiser, blocks, parameters)
    except Exception as error:
        if not says_out_of_memory(error):
            raise
        report.note("memory: too little is free even to measure what the run needs; it is tried in the smallest parts")
        on = checkpointing == "on" or (bool(blocks) and not in_micro_batches)  # micro-batches come to it by themselves
        return Plan(1 if in_micro_batches else step, on, torch.device("cpu"), math.inf)
    report.costs["UNet_evaluations_to_measure_memory"] += 3
    needs = Needs(step, EDIT_COPIES * bytes_of(parameters), samples * sample_bytes(denoiser), grows)
    plans = list(needs.plans(denoiser.device, checkpointing if blocks else "off", in_micro_batches))
    free = denoiser.make_room(int(plans[0].needs))
    plan = next((plan for plan in plans if plan.needs <= free), min(plans, key=lambda plan: plan.needs))
    line = _summary(needs, plan, free)
    report.note(line)
    report.check(line)
    return plan


def _summary(needs: Needs, plan: Plan, free: int) -> str:
    held = MARGIN * needs.activations(plan.micro_batch).held(plan.checkpointing)
    sizes = {
        "edit and optimiser": needs.edit,
        f"a pass of {plan.micro_batch} with gradient": held,
        "samples": needs.samples,
    }
    way = (
        "batches whole" if plan.micro_batch == needs.step else f"batches of {needs.step} in parts of {plan.micro_batch}"
    )
    way += ", gradient checkpointing" if plan.checkpointing else ""
    return (
        f"memory: about {_mb(plan.needs)} needed over the model ("
        + ", ".join(f"{name} {_mb(size)}" for name, size in sizes.items())
        + f"), {_mb(free)} free; {way}, samples kept on {plan.samples_on.type}"
        + ("" if plan.needs <= free else "; that may be too little, and is tried")
    )


def _mb(size: float) -> str:
    return f"{size / 1e6:,.1f} MB"
