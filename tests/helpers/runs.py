"""An erasure as the node makes it, short enough for a test, and whether it left the base model as it was."""

from __future__ import annotations

import hashlib

import torch
from concept_erasure.erasure_core.concepts import parse_request

from testbed.playground import Playground

from .small import make

QUICK = {"steps": 3, "sampling_steps": 3, "trajectories": 3, "batch": 2}


def run(testbed: Playground, name: str = "esd", concepts: str = "circle", width: int = 64, height: int = 64, **changes):
    """Erase as the node does."""
    from concept_erasure.nodes.erase import erase

    return erase(testbed.model, testbed.clip, parse_request(concepts), make(name, **(QUICK | changes)), width, height)


def base_hash(testbed: Playground) -> str:
    """Hash over every weight and buffer of the base model, bit for bit."""
    digest = hashlib.sha256()
    for name, value in testbed.model.model.state_dict().items():
        digest.update(name.encode() + value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
