"""Prompts of the kinds that ComfyUI knows, as concepts of every method: embeddings, weights, long ones, BREAK."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from concept_erasure.erasure_core.concepts import parse_request
from concept_erasure.erasure_core.evaluation.sampler import Sampling
from concept_erasure.erasure_core.method import methods
from concept_erasure.erasure_core.report import unwatched
from erasure_tests.families import Autoencoder, small_model
from erasure_tests.runs import QUICK, base_hash, run
from erasure_tests.small import make
from safetensors.torch import save_file

from devtools.hosting.inprocess import load_comfy
from testbed.playground import Playground

pytestmark = pytest.mark.usefixtures("as_a_node_runs", "few_words")
TINY = {"steps": 2, "sampling_steps": 2, "retain_sampling_steps": 2, "trajectories": 1, "batch": 1, "candidates": 2}
TINY |= {"preserved": 1, "scan_width": 1, "retain_trajectories": 1, "sentences": 2, "kept_sentences": 0}
LONG = " ".join(f"a {colour} {thing} beside" for colour in ("red", "blue", "green") for thing in ("house", "tree") * 5)


@pytest.fixture
def embeddings(testbed: Playground, tmp_path: Path, monkeypatch) -> Iterator[None]:
    """Textual inversions in ComfyUI's folder, `mine` of two vectors and the others of one."""
    for seed, (name, vectors) in enumerate({"mine": 2, "other": 1, "third": 1, "kept": 1}.items()):
        drawn = torch.randn(vectors, 768, generator=torch.Generator().manual_seed(seed)) * 0.05
        save_file({"emb_params": drawn}, tmp_path / f"{name}.safetensors")
    monkeypatch.setattr(testbed.clip.tokenizer.clip_l, "embedding_directory", [str(tmp_path)])
    yield


KINDS = {
    "embeddings": ("a red embedding:mine => embedding:other\nembedding:third", "embedding:kept\nsquare"),
    "words": (f"(circle:1.5) BREAK {LONG}", f"(red square:0.7)\n{LONG}\nstar BREAK ring"),
}


@pytest.mark.parametrize("name", sorted(methods()))
@pytest.mark.parametrize("kind", list(KINDS))
def test_every_method_takes_it(testbed: Playground, embeddings: None, kind: str, name: str) -> None:
    from concept_erasure.nodes.erase import erase

    before, settings = base_hash(testbed), QUICK | TINY
    erased, report = erase(testbed.model, testbed.clip, parse_request(*KINDS[kind]), make(name, **settings), 64, 64)
    assert not erased.is_zero() and erased.not_finite() is None
    assert not any("are words" in note for note in report.notes)
    assert base_hash(testbed) == before


def test_weights_that_a_text_encoder_reads_as_words_are_named() -> None:
    """As Qwen-Image's and Z-Image's do, whose tokenizers are told to read no weights."""
    testbed = small_model("Z-Image")
    _, report = run(testbed, "esd", "(circle:1.5)\nstar => (square)\n(a red: 2.0 moon)", **TINY)
    (note,) = [note for note in report.notes if "are words" in note]
    assert "'(circle:1.5)'" in note and "star" not in note and "square" not in note and "moon" not in note
    _, report = run(testbed, "esd", "circle", **TINY)
    assert not any("are words" in note for note in report.notes)


CHANNELS = {"SD1.5": 4, "Flux.1 dev": 16, "Flux.2": 128, "Wan 2.1": 16, "Wan 2.2 5B": 48}


@pytest.mark.parametrize("layout", list(CHANNELS))
@pytest.mark.parametrize("other", list(CHANNELS))
def test_a_vae_of_another_family_is_refused_at_once_and_its_own_is_not(layout: str, other: str) -> None:
    from concept_erasure.nodes.host.linked import check_vae

    formats = latent_formats()
    model = SimpleNamespace(model=SimpleNamespace(latent_format=formats[layout], model_config=SimpleNamespace()))
    vae = Autoencoder(formats[other])
    image_vae_of_as_many_channels = (layout, other) == (
        "Wan 2.1",
        "Flux.1 dev",
    )  # TAESD has no more than that to tell by
    if layout == other or image_vae_of_as_many_channels:
        check_vae(model, vae)
        return
    said = rf"of this VAE have {CHANNELS[other]} channels at 1/.*MODEL {CHANNELS[layout]} channels at 1/.*Link the VAE"
    with pytest.raises(ValueError, match=said):
        check_vae(model, vae)


def latent_formats() -> dict[str, Any]:
    """What ComfyUI says of each family's latents."""
    load_comfy()
    from comfy import latent_formats as known

    names = ("SD15", "Flux", "Flux2", "Wan21", "Wan22")
    return {layout: getattr(known, name)() for layout, name in zip(CHANNELS, names, strict=True)}


def test_erase_and_evaluate_refuse_a_foreign_vae_before_anything_is_drawn(monkeypatch) -> None:
    load_comfy()
    from concept_erasure.nodes import host
    from concept_erasure.nodes.erase import erase
    from concept_erasure.nodes.runs.evaluation import samplers

    testbed, vae = small_model("SD1.5"), Autoencoder(latent_formats()["Wan 2.1"])
    monkeypatch.setattr(host, "open_session", lambda *_: pytest.fail("the model was opened"))
    with pytest.raises(ValueError, match="VAE and MODEL do not belong together"):
        erase(testbed.model, testbed.clip, parse_request("circle"), make("esd"), 64, 64, vae)
    sampling = Sampling(64, 64, 2, 3.0, "euler", "normal")
    linked = host.LinkedModels(testbed.model, testbed.model, testbed.clip, vae, None, sampling)
    with pytest.raises(ValueError, match="VAE and MODEL do not belong together"):
        samplers(linked, unwatched)


def test_two_families_and_an_attack_without_a_judge_are_refused_at_once() -> None:
    load_comfy()
    from concept_erasure.nodes import host

    def of_family(name: str) -> SimpleNamespace:
        return SimpleNamespace(model=SimpleNamespace(model_config=type(name, (), {})()))

    sampling = {"width": 64, "height": 64, "steps": 2, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal"}
    with pytest.raises(ValueError, match="model is a SD15 model and erased_model a SDXL one; link the erased clone"):
        host.linked_models(of_family("SD15"), of_family("SDXL"), None, None, **sampling)
    linked = host.linked_models(of_family("SD15"), of_family("SD15"), None, None, **sampling)
    assert linked.sampling == Sampling(64, 64, 2, 3.0, "euler", "normal")
    with pytest.raises(ValueError, match="no judge with a label for 'circle' is linked"):
        host.ComfyAttackedModel(linked, "circle", ["a {}"])
