"""Edits that act while the model runs, one a method, made in a second or two."""

from __future__ import annotations

from concept_erasure.erasure_core.concepts import parse_request
from concept_erasure.erasure_core.erased_unet import ErasedUNet

from testbed.playground import Playground

from .small import make

ACTING = ("dumo", "kpop", "saeuron", "spm")
_QUICK = {"steps": 1, "sampling_steps": 2, "scale_steps": 0, "trajectories": 1, "batch": 1, "candidates": 2}
_QUICK |= {"expansion": 1}  # half of so few latents fire at any place, so that those chosen are among them

_MADE: dict[tuple[int, str], ErasedUNet] = {}


def acting(testbed: Playground, name: str) -> ErasedUNet:
    """What the method makes of "circle", of KPOP its key; made once for each model. It is weak: apply it at a strength."""
    from concept_erasure.nodes.erase import erase

    place = (id(testbed), name)
    if place not in _MADE:
        erased, _ = erase(testbed.model, testbed.clip, parse_request("circle"), make(name, **_QUICK), 64, 64)
        _MADE[place] = erased.key or erased
    return _MADE[place]
