"""What every training stage of the playground shares: averaged weights, the learning-rate curve, checkpoints."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from devtools.hosting.pack import load_pack

load_pack()
from concept_erasure.erasure_core.memory.precision import cpu_computes_in_bf16  # noqa: E402

Trained = TypeVar("Trained", bound=nn.Module)


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a stage learns; `ema` is the decay of the averaged weights that are kept."""

    steps: int
    batch: int
    learning_rate: float
    ema: float = 0.998
    weight_decay: float = 0.01


def fast_precision() -> AbstractContextManager:
    """Inside, the CPU works in the precision that it is fastest in."""
    return torch.autocast("cpu", torch.bfloat16) if cpu_computes_in_bf16() else nullcontext()


def warm_cosine(progress: float, warm_up: float = 0.08) -> float:
    """Share of the full learning rate at `progress` (0 to 1) of the run: a linear start, then half a cosine to 0."""
    if progress < warm_up:
        return progress / warm_up
    return 0.5 * (1 + math.cos(math.pi * (progress - warm_up) / (1 - warm_up)))


def channels_last(module: Trained) -> Trained:
    """`module`, its weights laid out in place as convolutions on a CPU are fastest with."""
    return module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] - torch's stubs lack it


def train(
    name: str,
    module: Trained,
    loss: Callable[[int, torch.Generator], Tensor],
    schedule: Schedule,
    seed: int,
    checkpoint: Path,
    save_every: int = 250,
) -> Trained:
    """Train `module` in place on `loss(batch, generator)`; returns a copy that holds the averaged weights.

    A checkpoint of the full state is written every `save_every` steps; a later call with the same file goes on from it.
    """
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(
        module.parameters(), lr=schedule.learning_rate, betas=(0.9, 0.99), weight_decay=schedule.weight_decay
    )
    averaged = copy.deepcopy(module).requires_grad_(False)
    parts = {"module": module, "averaged": averaged, "optimiser": optimiser}
    start = _resume(checkpoint, parts, generator)
    if start:
        print(f"{name}: going on from step {start}", flush=True)

    began, recent = time.time(), 0.0
    for step in range(start, schedule.steps):
        for group in optimiser.param_groups:
            group["lr"] = schedule.learning_rate * warm_cosine((step + 1) / schedule.steps)
        value = loss(schedule.batch, generator)
        optimiser.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimiser.step()
        # a short memory at first: an average that still holds the random start would spoil early checkpoints
        _average(averaged, module, min(schedule.ema, (1 + step) / (10 + step)))

        recent = 0.98 * recent + 0.02 * float(value.detach()) if step > start else float(value.detach())
        if (step + 1) % 50 == 0:
            pace = (time.time() - began) / (step + 1 - start)
            print(f"{name}: step {step + 1}/{schedule.steps}  loss {recent:.5f}  {pace:.2f} s/step", flush=True)
        if (step + 1) % save_every == 0 or step + 1 == schedule.steps:
            _save(checkpoint, step + 1, parts, generator)
    return averaged.eval()


def _resume(checkpoint: Path, parts: Mapping[str, Any], generator: torch.Generator) -> int:
    """Load what `_save` wrote, and return the number of steps that are done; 0 without a checkpoint."""
    if not checkpoint.exists():
        return 0
    state = torch.load(checkpoint, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(state[name])
    generator.set_state(state["generator"])
    return state["step"]


def _save(checkpoint: Path, step: int, parts: Mapping[str, Any], generator: torch.Generator) -> None:
    """Write the whole state by a rename, so that a stopped training leaves the last checkpoint whole."""
    state = {"step": step, **{name: part.state_dict() for name, part in parts.items()}}
    torch.save(state | {"generator": generator.get_state()}, checkpoint.with_suffix(".tmp"))
    checkpoint.with_suffix(".tmp").replace(checkpoint)


@torch.no_grad()
def _average(averaged: nn.Module, module: nn.Module, decay: float) -> None:
    for average, now in zip(averaged.parameters(), module.parameters(), strict=True):
        average.lerp_(now, 1 - decay)
    for copied, now in zip(averaged.buffers(), module.buffers(), strict=True):
        copied.copy_(now)


RESET: tuple[Any, ...] = (nn.Conv2d, nn.Linear, nn.GroupNorm, nn.LayerNorm)
"""torch's own layers: called on the class, their start is not the empty one of ComfyUI's subclasses."""


def initialise(module: nn.Module, seed: int) -> None:
    """Give every layer torch's usual random start from `seed`.

    ComfyUI's layers skip their own initialisation, because a checkpoint normally overwrites them.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for layer in module.modules():
            for kind in RESET:
                if isinstance(layer, kind):
                    kind.reset_parameters(layer)
    module.requires_grad_(True)
