"""`python -m benchmarks.memory`: what one pass with gradient holds at the shapes of SD 1.5 and SDXL, with and without gradient
checkpointing, to the byte.

Nothing is computed: every tensor is one of torch's fake tensors, which have a shape and a type only, so that this takes
minutes and no memory. Weights are half precision and the pass goes in bfloat16, as `Erase Concept` trains on a GPU; attention
is torch's own. Counted is what exists at a time besides the model's weights. What a GPU's allocator and its kernels take for
themselves is not seen. Prints a Markdown table and, as its last line, one JSON object.
"""

from __future__ import annotations

import itertools
import json
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from devtools.inprocess import load_comfy
from devtools.pack import load_pack

load_pack()
from concept_erasure.erasure_core.adapters import Deltas, is_editable  # noqa: E402
from concept_erasure.erasure_core.checkpointing import by_block  # noqa: E402
from concept_erasure.erasure_core.concepts import parse_request  # noqa: E402
from concept_erasure.erasure_core.layers import blocks, select  # noqa: E402
from concept_erasure.erasure_core.memory import EDIT_COPIES, MARGIN, SAMPLE_TENSORS, activations, bytes_of  # noqa: E402
from concept_erasure.erasure_core.methods.ap import AdversarialPreservation  # noqa: E402

from .live_memory import LiveMemory  # noqa: E402
from .quality import markdown_table  # noqa: E402

TOKENS, RANK = 77, 8
COMMON = {"image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "legacy": False}
SHAPES: dict[str, tuple[int, dict[str, Any]]] = {
    "SD15": (
        512,
        {
            "num_res_blocks": [2, 2, 2, 2],
            "channel_mult": [1, 2, 4, 4],
            "num_heads": 8,
            "num_head_channels": -1,
            "context_dim": 768,
            "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
            "transformer_depth_output": [1] * 9 + [0] * 3,
            "transformer_depth_middle": 1,
            "use_linear_in_transformer": False,
        },
    ),
    "SDXL": (
        1024,
        {
            "num_res_blocks": [2, 2, 2],
            "channel_mult": [1, 2, 4],
            "num_heads": -1,
            "num_head_channels": 64,
            "context_dim": 2048,
            "transformer_depth": [0, 0, 2, 2, 10, 10],
            "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
            "transformer_depth_middle": 10,
            "use_linear_in_transformer": True,
            "num_classes": "sequential",
            "adm_in_channels": 2816,
        },
    ),
}
"""Family -> the size of its pictures, and the network as ComfyUI builds it."""


@dataclass(frozen=True)
class Network:
    """A family's network on fake tensors, and deltas on its keys and values."""

    family: str
    network: nn.Module
    blocks: dict[str, nn.Module]
    deltas: Deltas

    def predict(self, n: int) -> Tensor:
        """A prediction for n samples, with gradient; the deltas must be attached."""
        size, config = SHAPES[self.family]
        half: dict[str, Any] = {"dtype": torch.float16}
        pooled = {"y": torch.zeros(n, config["adm_in_channels"], **half)} if "adm_in_channels" in config else {}
        text = torch.zeros(n, TOKENS, config["context_dim"], **half)
        with torch.autocast("cpu", torch.bfloat16):
            return self.network(torch.zeros(n, 4, size // 8, size // 8, **half), torch.zeros(n), text, **pooled)


def network_of(family: str) -> Network:
    """The family's network; call it inside a `FakeTensorMode`."""
    import comfy.ldm.modules.attention as attention
    import comfy.model_management
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    comfy.model_management.in_training = True
    attention.optimized_attention = attention.attention_pytorch  # ComfyUI's choice on a GPU
    config = COMMON | {"use_spatial_transformer": True} | SHAPES[family][1]
    network = UNetModel(**config, dtype=torch.float16, device="cpu", operations=comfy.ops.disable_weight_init)
    modules = dict(network.requires_grad_(False).named_modules())
    names = select(family, "cross_attention_kv", [name for name, module in modules.items() if is_editable(module)])
    deltas = Deltas({name: modules[name] for name in names}, RANK, torch.Generator().manual_seed(0))
    return Network(family, network, {name: modules[name] for name in blocks(family, "checkpointed", modules)}, deltas)


def measured(network: Network, n: int, checkpointing: bool) -> dict[str, Any]:
    """What one pass of n samples takes, forward and backward, and what `Erase Concept` would have planned for it."""
    with network.deltas.attached():
        with LiveMemory() as live:
            with by_block(network.blocks.values()) if checkpointing else nullcontext():
                predicted = network.predict(n)
            held = live.now
            torch.autograd.grad(predicted.float().square().mean(), network.deltas.parameters())
        stays = [*network.network.parameters(), *network.deltas.parameters()]
        planned = MARGIN * activations(lambda: network.predict(n), network.blocks.values(), stays).held(checkpointing)
    return {
        "family": network.family,
        "size": SHAPES[network.family][0],
        "samples": n,
        "checkpointing": checkpointing,
        "held_MB": round(held / 1e6),
        "peak_MB": round(live.peak / 1e6),
        "planned_MB": round(planned / 1e6),
    }


def besides(network: Network) -> dict[str, float]:
    """What AP at its defaults keeps besides for one concept, in MB: the edit with Adam, and samples at their most."""
    size, config = SHAPES[network.family]
    method = AdversarialPreservation()
    sample = SAMPLE_TENSORS * 4 * 4 * (size // 8) ** 2 + 4 * TOKENS * config["context_dim"]
    return {
        "edit_MB": round(EDIT_COPIES * bytes_of(network.deltas.parameters()) / 1e6, 1),
        "samples_MB": round(method.samples_kept(parse_request("circle")) * sample / 1e6),
    }


def main() -> int:
    """Measure and print."""
    load_comfy()
    rows, more = [], {}
    for family in SHAPES:
        with FakeTensorMode(allow_non_fake_inputs=True):
            network = network_of(family)
            for n, checkpointing in itertools.product((8, 1), (False, True)):
                rows.append(measured(network, n, checkpointing))
                print(rows[-1], file=sys.stderr, flush=True)
            more[family] = besides(network)
    print(markdown_table(list(rows[0]), [list(row.values()) for row in rows]))
    print(json.dumps({"rows": rows, "besides": more}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
