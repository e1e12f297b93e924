"""Prompts of the kinds that ComfyUI knows, as concepts of every method: embeddings, weights, long ones, BREAK."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from concept_erasure.erasure_core.method import methods
from erasure_tests.families import small_model
from erasure_tests.runs import base_hash, run
from safetensors.torch import save_file

from benchmarks.playground import Playground

pytestmark = pytest.mark.usefixtures("as_a_node_runs", "few_words")
TINY = {"steps": 2, "sampling_steps": 2, "retain_sampling_steps": 2, "trajectories": 1, "batch": 1, "candidates": 2}
TINY |= {"preserved": 1, "scan_width": 1, "retain_trajectories": 1, "sentences": 2, "kept_sentences": 0}
LONG = " ".join(f"a {colour} {thing} beside" for colour in ("red", "blue", "green") for thing in ("house", "tree") * 5)


@pytest.fixture
def embeddings(bed: Playground, tmp_path: Path, monkeypatch) -> Iterator[None]:
    """Two textual inversions in ComfyUI's folder: `mine` of two vectors, `other` of one."""
    for seed, (name, vectors) in enumerate({"mine": 2, "other": 1}.items()):
        drawn = torch.randn(vectors, 768, generator=torch.Generator().manual_seed(seed)) * 0.05
        save_file({"emb_params": drawn}, tmp_path / f"{name}.safetensors")
    monkeypatch.setattr(bed.clip.tokenizer.clip_l, "embedding_directory", [str(tmp_path)])
    yield


KINDS = {
    "embedding": ("embedding:mine", ""),
    "embedding and words": ("a red embedding:mine", "square"),
    "embeddings": ("embedding:mine => embedding:other", ""),
    "retained": ("circle", "embedding:mine"),
    "anchor": ("circle => embedding:other", "square"),
    "weights": ("(circle:1.5)", "(red square:0.7)"),
    "long": (f"circle {LONG}", LONG),
    "BREAK": ("red circle BREAK blue square", "star BREAK ring"),
}


@pytest.mark.parametrize("name", sorted(methods()))
@pytest.mark.parametrize("kind", list(KINDS))
def test_every_method_takes_it(bed: Playground, embeddings: None, kind: str, name: str) -> None:
    from concept_erasure.erasure_core.concepts import parse_request
    from concept_erasure.nodes.erase import erase
    from erasure_tests.runs import QUICK
    from erasure_tests.small import make

    before = base_hash(bed)
    erased, _ = erase(bed.model, bed.clip, parse_request(*KINDS[kind]), make(name, **(QUICK | TINY)), 64, 64)
    assert erased.not_finite() is None
    assert base_hash(bed) == before
