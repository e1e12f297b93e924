"""Methods with settings small enough for a test."""

from __future__ import annotations

import dataclasses

from concept_erasure.erasure_core.method import ErasureMethod, methods

SMALL = {
    "selectivity": 1.0,  # an autoencoder of a few random latents has none of its own for a word
    "steps": 4,
    "sampling_steps": 4,
    "retain_sampling_steps": 4,
    "scale_steps": 2,
    "trajectories": 2,
    "candidates": 10,
    "batch": 2,
}


def make(name: str, **changes: object) -> ErasureMethod:
    """The method of that name; settings it does not have are left out."""
    method = methods()[name]
    known = {field.name for field in dataclasses.fields(method) if field.init}
    return method(**{key: value for key, value in (SMALL | changes).items() if key in known})
