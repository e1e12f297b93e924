"""An erasure as the node makes it, short enough for a test, and whether it left the base model as it was."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from concept_erasure.erasure_core.concepts import parse_request

from testbed.playground import Playground

from .small import make

QUICK = {"steps": 3, "sampling_steps": 3, "trajectories": 3, "batch": 2}


def run(testbed: Playground, name: str = "esd", concepts: str = "circle", width: int = 64, height: int = 64, **changes):
    """Erase as the node does."""
    from concept_erasure.nodes.erase import erase

    return erase(testbed.model, testbed.clip, parse_request(concepts), make(name, **(QUICK | changes)), width, height)


def drawing_inputs(testbed: Playground, erased: Any, prefix: str, steps: int = 2) -> dict[str, Any]:
    """The inputs, by name, that all nodes have which draw with a base and an erased model: two steps at 64 x 64."""
    return {
        "model": testbed.model, "erased_model": erased, "clip": testbed.clip, "vae": testbed.vae, "width": 64, "height": 64,
        "steps": steps, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "seed": 0, "batch_size": 4,
        "filename_prefix": prefix,
    }  # fmt: skip


def base_hash(testbed: Playground) -> str:
    """Hash over every weight and buffer of the base model, bit for bit."""
    digest = hashlib.sha256()
    for name, value in testbed.model.model.state_dict().items():
        digest.update(name.encode() + value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
