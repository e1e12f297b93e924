"""A trained method's run, for tests of single steps."""

from __future__ import annotations

import torch
from concept_erasure.erasure_core.concepts import ErasureRequest
from concept_erasure.erasure_core.report import Report
from concept_erasure.erasure_core.training.deltas import Deltas
from concept_erasure.erasure_core.training.trained import Training
from concept_erasure.erasure_core.training.trajectory import TrajectoryPool

from .toy import ToyDenoiser


def running(request: ErasureRequest, runs: int = 2, steps: int = 4) -> Training:
    """A run on the toy whose deltas are not attached, so that the network is the frozen one."""
    generator, denoiser = torch.Generator().manual_seed(0), ToyDenoiser()
    deltas = Deltas(denoiser.layers("cross_attention_kv"), 2, generator)
    pool = TrajectoryPool(denoiser, steps=4, guidance_scale=3.0, generator=generator, frozen=deltas.disabled)
    pool.fill(request.targets, runs)
    return Training(denoiser, request, deltas, pool, generator, Report(), steps, weighting="eps")
