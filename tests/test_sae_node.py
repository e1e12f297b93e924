"""The concept SAE's nodes in the real host, on the playground's model."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from concept_erasure.erasure_core.concepts import parse_request
from concept_erasure.erasure_core.method import methods
from concept_erasure.erasure_core.sae.autoencoder import ConceptSAE

from testbed.playground import Playground


def trained(testbed: Playground, folder: Path, monkeypatch, prefix: str = "shapes/sae", block: str = "auto"):
    """What Train Concept SAE gives, with `folder` as ComfyUI's models folder."""
    from concept_erasure.nodes import host, sae

    monkeypatch.setattr(host, "models_folder", lambda: folder)
    monkeypatch.setattr(sae, "SAMPLING_STEPS", 3)
    monkeypatch.setattr(sae.TrainConceptSAE, "hidden", SimpleNamespace(unique_id=None), raising=False)
    settings = {"expansion": 1, "k": 8, "steps": 3, "width": 64, "height": 64, "seed": 0}
    with torch.inference_mode():
        return sae.TrainConceptSAE.execute(
            testbed.model, testbed.clip, "a red circle\na square", block, filename_prefix=prefix, **settings
        ).args


def test_an_sae_is_trained_saved_loaded_and_erased_with(testbed: Playground, tmp_path: Path, monkeypatch) -> None:
    from concept_erasure.nodes import host, sae
    from concept_erasure.nodes.erase import erase

    made, report = trained(testbed, tmp_path, monkeypatch)
    assert isinstance(made, ConceptSAE) and made.d_in == 320 and made.family == "SD15"
    assert made.block in report and f"FVU {made.training['fvu']:.3f}" in report
    path = tmp_path / "concept_saes" / "shapes" / "sae_00001_.safetensors"
    assert str(path) in report
    monkeypatch.setattr(host, "file_path", lambda _kind, name: str(path) if name == "it" else None)
    (loaded,) = sae.LoadConceptSAE.execute("it").args
    assert torch.equal(loaded.encoder, made.encoder) and loaded.block == made.block
    with pytest.raises(ValueError, match="train one first"):
        sae.LoadConceptSAE.execute("other")
    method = methods()["saeuron"](steps=1, sampling_steps=3, trajectories=3, vocabulary="shapes_and_colours")
    with torch.inference_mode():
        erased, _ = erase(testbed.model, testbed.clip, parse_request("circle"), method, 64, 64, concept_sae=loaded)
    assert {key.rsplit(".", 1)[0] for key in erased.parts()} == {made.block}


def test_blocks_are_chosen_by_name_or_number_and_others_are_refused(testbed: Playground, tmp_path, monkeypatch) -> None:
    last, _ = trained(testbed, tmp_path, monkeypatch, prefix="", block="3")
    assert last.block == "output_blocks.1.1" and not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"1 = input_blocks\.1\.1"):
        trained(testbed, tmp_path, monkeypatch, prefix="", block="9")
    with pytest.raises(ValueError, match="out of the output folder"):
        trained(testbed, tmp_path, monkeypatch, prefix="../sae")
