"""Edits that act while the model runs, one a method, made in a second or two."""

from __future__ import annotations

import dataclasses
from typing import Any

from concept_erasure.erasure_core.concepts import parse_request
from concept_erasure.erasure_core.erased_unet import ErasedUNet

from testbed.playground import Playground

from .families import small_model
from .layouts import LAYOUTS, Layout
from .small import make

ACTING = ("dumo", "kpop", "saeuron", "spm")
_QUICK = {"steps": 1, "sampling_steps": 2, "scale_steps": 0, "trajectories": 1, "batch": 1, "candidates": 2}

CHANNELS = 32


def tiny_layout() -> Layout:
    """SD 1.5 with a tenth of its width: the detection takes nothing else for one, and is shown it."""
    full = LAYOUTS["SD1.5"]
    config = {**full.config, "model_channels": CHANNELS}
    smaller = {name: config[name] for name in ("model_channels", "channel_mult")}
    return dataclasses.replace(full, config=config, shown={"input_blocks.0.0.weight": (320, 4, 3, 3)}, smaller=smaller)


def tiny_model(**options: Any) -> Playground:
    """A random model of that layout, in a few milliseconds a call; `options` are those of `small_model`."""
    return small_model(tiny_layout(), **options)


_MADE: dict[tuple[int, str], ErasedUNet] = {}


def acting(testbed: Playground, name: str) -> ErasedUNet:
    """What the method makes of "circle", of KPOP its key; made once for each model. It is weak: apply it at a strength."""
    from concept_erasure.nodes.erase import erase

    place = (id(testbed), name)
    if place not in _MADE:
        erased, _ = erase(testbed.model, testbed.clip, parse_request("circle"), make(name, **_QUICK), 64, 64)
        _MADE[place] = erased.key or erased
    return _MADE[place]
