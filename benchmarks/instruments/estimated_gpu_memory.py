"""Estimates the memory that AP needs on a GPU from tensor shapes alone: nothing is computed and no GPU is needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from .peak_tensor_memory import LiveMemory
from .random_models import SIZES, RandomText, random_model
from .runs import Row

PUBLISHED = "update, published loop"


@contextmanager
def types_of_a_gpu(denoiser: Any, *, autocast: bool = True) -> Iterator[None]:
    """Inside, a network on the CPU makes the tensors that it would make on a GPU: autocast casts weights and activations to
    bf16, but computes norms in float32, and attention is torch's own. Without `autocast`, all is of the weights' type."""
    from comfy.ldm.modules import attention

    def group_norm(norm: nn.GroupNorm, x: Tensor) -> Tensor:
        return F.group_norm(x.float(), norm.num_groups, _float(norm.weight), _float(norm.bias), norm.eps)

    def layer_norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
        return F.layer_norm(x.float(), norm.normalized_shape, _float(norm.weight), _float(norm.bias), norm.eps)

    with ExitStack() as stack:
        for module in denoiser.modules().values():
            for kind, forward in ((nn.GroupNorm, group_norm), (nn.LayerNorm, layer_norm)):
                if isinstance(module, kind):
                    stack.enter_context(patch.object(module, "forward", forward.__get__(module)))
        for name in ("optimized_attention", "optimized_attention_masked"):
            stack.enter_context(patch.object(attention, name, attention.attention_pytorch))
        precision = torch.autocast("cpu", torch.bfloat16, enabled=autocast)
        stack.enter_context(patch.object(denoiser, "_precision", lambda: precision))
        yield


def _float(parameter: Tensor | None) -> Tensor | None:
    return None if parameter is None else parameter.float()


def shapes_only(denoiser: Any, samples: int, run: Callable[[Callable[[], Tensor], LiveMemory], float]) -> Row:
    """Gigabytes that live at most, and those that `run` says. It is given what predicts for so many samples."""
    conditioning = denoiser.encode(["cat"]).repeat(samples)
    with FakeTensorMode(allow_non_fake_inputs=True), LiveMemory() as live:
        latents = torch.randn(denoiser.empty_latents(samples).shape)
        held = run(lambda: denoiser.predict(latents, torch.ones(samples), conditioning), live)
    return {"samples": samples, "held_GB": round(held / 1e9, 2), "peak_GB": round(live.peak / 1e9, 2)}


def update(denoiser: Any, method: Any, samples: int, checkpointing: AbstractContextManager) -> Row:
    """One optimiser step with `samples` in its batch, with the deltas, their gradients and Adam's state."""
    from concept_erasure.erasure_core.training.deltas import Deltas

    def run(predict: Callable[[], Tensor], live: LiveMemory) -> float:
        deltas = Deltas(denoiser.layers(method.layers), method.rank, torch.Generator(), denoiser.rows(method.layers))
        optimiser = torch.optim.Adam(deltas.parameters())
        with deltas.attached(), checkpointing:
            loss = predict().square().mean()
            held = live.now
            loss.backward()
        optimiser.step()
        return held

    return shapes_only(denoiser, samples, run)


def forward_only(denoiser: Any, samples: int, *, gradient: bool = False) -> Row:
    """Predictions, without gradient as the search and the sampling runs ask for them, or with what a backward pass needs."""

    @torch.set_grad_enabled(gradient)
    def run(predict: Callable[[], Tensor], live: LiveMemory) -> float:
        predicted = predict()  # noqa: F841  (lives while it is counted)
        return live.now

    return shapes_only(denoiser, samples, run)


def published(family: str) -> Row:
    """The memory of an update of the published loop, over a model of the same kind in half precision: float32 throughout, a
    second copy of the UNet, gradients of all weights (its optimiser clears only those of the weights that it trains, so that
    the rest are there in the next forward pass), and Adam's averages. A sample of the target and one of the candidate."""
    from concept_erasure.nodes import host

    size, samples = SIZES[family], 2
    model = random_model(family, empty=True, dtype=torch.float32)
    weights = 4 * sum(parameter.numel() for parameter in model.model.diffusion_model.parameters())

    with host.open_session(model, RandomText(family), size, size) as denoiser, types_of_a_gpu(denoiser, autocast=False):
        trained = sum(layer.weight.numel() for layer in denoiser.layers("cross_attention").values())
        for parameter in model.model.diffusion_model.parameters():
            parameter.requires_grad_(True)
        counted = forward_only(denoiser, samples, gradient=True)
    over = weights / 2 + weights + (weights - 4 * trained) + 2 * 4 * trained
    peak = {"peak_GB": round(counted["held_GB"] + over / 1e9, 2)}
    return {"what": PUBLISHED} | counted | peak


def estimated(family: str) -> list[Row]:
    """The memory that AP needs at its defaults and this family's size: its update with and without checkpointing, a search
    step and a batch of sampling runs. And the memory of the published loop."""
    from concept_erasure.erasure_core.memory.checkpointing import by_block
    from concept_erasure.erasure_core.method import methods
    from concept_erasure.erasure_core.methods.ap import PROBE_LEVELS
    from concept_erasure.erasure_core.training.trajectory import SAMPLES_AT_ONCE
    from concept_erasure.nodes import host

    method, size, rows = methods()["ap"](), SIZES[family], []
    model = random_model(family, empty=True)
    with host.open_session(model, RandomText(family), size, size) as denoiser, types_of_a_gpu(denoiser):
        for samples in dict.fromkeys((2, method.batch + method.preserved)):
            rows.append({"what": "update"} | update(denoiser, method, samples, nullcontext()))
            blocks = by_block(denoiser.blocks("checkpointed").values())
            rows.append({"what": "update, checkpointed"} | update(denoiser, method, samples, blocks))
        rows.append({"what": "search"} | forward_only(denoiser, method.scan_width * PROBE_LEVELS))
        rows.append({"what": "sampling runs"} | forward_only(denoiser, SAMPLES_AT_ONCE))
    rows.append(published(family))
    return [{"family": family, "size": size} | row for row in rows]
