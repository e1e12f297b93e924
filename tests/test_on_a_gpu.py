"""What only a GPU shows, at the true shape of SD 1.5 with random weights.

`CONCEPT_ERASURE_DEVICE=cuda make test ARGS=tests/test_on_a_gpu.py`
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from concept_erasure.erasure_core.concepts import parse_request
from concept_erasure.erasure_core.report import Report
from erasure_tests.small import make

from benchmarks.instruments.random_models import SIZES, RandomText, random_model
from devtools.hosting.inprocess import DEVICE_SETTING, load_comfy

pytestmark = [
    pytest.mark.skipif(
        os.environ.get(DEVICE_SETTING) != "cuda" or not torch.cuda.is_available(),
        reason=f"needs a GPU of CUDA, and {DEVICE_SETTING}=cuda",
    ),
    pytest.mark.usefixtures("few_words", "as_a_node_runs"),
]
FAMILY = "SD15"
BATCH = {"batch": 4, "preserved": 4}
SHORT = BATCH | {"steps": 2, "candidates": 6, "trajectories": 1, "sampling_steps": 4, "retain_sampling_steps": 2}
BAR = 3e9
"""Bytes over the loaded model that SD 1.5 may take at 512."""


@pytest.fixture(scope="module")
def model() -> Any:
    load_comfy()
    return random_model(FAMILY)


def erased(model: Any, **changes: Any) -> tuple[Any, Report, int]:
    """An edit, its report, and the bytes that the run took over the loaded model."""
    from concept_erasure.nodes import host

    report, size = Report(), SIZES[FAMILY]
    with host.open_session(model, RandomText(FAMILY), size, size) as denoiser, host.MemoryMeter(host.device()) as meter:
        edit = make("ap", **SHORT | changes).erase(denoiser, parse_request("cat"), report)
    return edit, report, meter.peak


@contextmanager
def at_most(size: float) -> Iterator[None]:
    """Inside, torch gets so many bytes of the GPU over what it has now, though the host sees all of it free."""
    torch.cuda.empty_cache()
    whole = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_allocated() + size) / whole)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_with_checkpointing_the_default_batch_keeps_to_the_bar_and_to_what_was_said(model) -> None:
    _, report, peak = erased(model, checkpointing="on")
    said = next(note for note in report.notes if note.startswith("memory: about"))
    megabytes = float(said.split()[2].replace(",", ""))
    assert peak <= BAR and peak / 1e6 <= megabytes, (peak, said)


def test_a_card_that_is_full_is_met_by_parts_and_the_edit_is_the_same(model) -> None:
    plain, _, _ = erased(model)
    with at_most(4.5e9):
        parts, report, peak = erased(model)
    assert any("memory ran out at 8 samples at once" in note for note in report.notes), report.notes
    assert peak <= 4.6e9
    one, other = (torch.cat([t.float().flatten() for t in edit.tensors.values()]) for edit in (plain, parts))
    assert torch.cosine_similarity(one, other, dim=0) > 0.95, (
        "to rounding in bf16, which Adam's first steps make much of"
    )


def test_the_memory_is_given_back(model) -> None:
    from concept_erasure.nodes import host

    host.load_fully(model)
    gc.collect()
    before = torch.cuda.memory_allocated()
    _, _, peak = erased(model)
    gc.collect()
    assert peak > 1e9 and torch.cuda.memory_allocated() - before < 2e7
