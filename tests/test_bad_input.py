"""Bad input and failures in the real host: each is named, says what to do, and leaves the base model as it was."""

from __future__ import annotations

import dataclasses
import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from concept_erasure.erasure_core.erased_unet import ErasedUNet, Provenance
from erasure_tests.families import Text
from erasure_tests.layouts import LAYOUTS
from erasure_tests.runs import base_hash, run

from benchmarks.playground import Playground

pytestmark = pytest.mark.usefixtures("bed", "as_a_node_runs", "few_words")


@pytest.fixture(autouse=True)
def hidden(bed: Playground, monkeypatch) -> None:
    """What ComfyUI sets on the nodes' classes before it runs them."""
    from concept_erasure.nodes import adversarial, erase, erased_unet

    for node in (erase.EraseConcept, adversarial.FindAdversarialConcept, erased_unet.SaveErasedUNet):
        monkeypatch.setattr(node, "hidden", SimpleNamespace(unique_id="7"), raising=False)


def test_a_failing_run_leaves_the_base_as_it_was(bed: Playground, monkeypatch) -> None:
    from concept_erasure.erasure_core import trained

    before = base_hash(bed)
    monkeypatch.setattr(trained, "squared_error", lambda predicted, *_a: predicted * float("nan"))
    with pytest.raises(FloatingPointError, match="optimiser step 1 of 3"):
        run(bed)
    assert base_hash(bed) == before
    assert not any(module._forward_hooks for module in bed.model.model.modules())


NO_MEMORY = [
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"
    ),
    torch.cuda.OutOfMemoryError("CUDA out of memory"),
    MemoryError(),
]


def failing(error: Exception):
    """A function that raises the error whatever it is called with."""

    def fail(*_arguments: object, **_named: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize("error", NO_MEMORY, ids=lambda error: type(error).__name__)
def test_running_out_of_memory_names_what_to_lower(bed: Playground, monkeypatch, error: Exception) -> None:
    from concept_erasure.erasure_core import trained
    from concept_erasure.nodes import host

    before = base_hash(bed)
    monkeypatch.setattr(trained, "squared_error", failing(error))
    with pytest.raises(
        RuntimeError, match=r"with esd\. Lower width and height, .* batch, trajectories, rank; the model"
    ):
        run(bed)
    assert base_hash(bed) == before and host.is_out_of_memory(error)
    assert not any(module._forward_hooks for module in bed.model.model.modules())
    monkeypatch.setattr(trained, "squared_error", failing(RuntimeError("another error")))
    with pytest.raises(RuntimeError, match=r"^another error$"):
        run(bed)


def test_running_out_of_memory_after_the_erasure_is_named_too(bed: Playground, few_words, monkeypatch) -> None:
    from concept_erasure.nodes import adversarial, erase, host

    erased, _ = run(bed)
    monkeypatch.setattr(host, "patched", failing(MemoryError()))
    size = {"width": 64, "height": 64, "seed": 0}
    with pytest.raises(
        RuntimeError, match=r"erasing at 64x64 with uce\. Lower width and height, .* settings rank; the"
    ):
        erase.EraseConcept.execute(
            bed.model, bed.clip, "circle", {"method": "uce", "sentences": 1, "kept_sentences": 0}, **size
        )
    with pytest.raises(RuntimeError, match=r"while measuring concepts at 64x64\. Lower width and height; the model"):
        adversarial.FindAdversarialConcept.execute(
            bed.model, bed.clip, "circle", "everyday_words", 3, erased_unet=erased, **size
        )


def test_an_edit_that_is_not_finite_is_not_returned(bed: Playground, monkeypatch) -> None:
    from concept_erasure.erasure_core import adapters

    def broken(_deltas: object) -> dict[str, torch.Tensor]:
        return {"a.diff": torch.tensor([float("nan")])}

    monkeypatch.setattr(adapters.Deltas, "export", broken)
    with pytest.raises(FloatingPointError, match=r"esd made holds NaN or infinity in 'diffusion_model\.a\.diff'"):
        run(bed)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 60}, "width is 60, which is no multiple of 8; try 64"),
        ({"height": 0}, "height is 0"),
        ({"concepts": "()"}, "has no letter"),
        ({"steps": 0}, "steps is 0"),
        ({"layers": "everything"}, "choose one of cross_attention_kv"),
    ],
)
def test_bad_input_is_named(bed: Playground, changes: dict, message: str) -> None:
    before = base_hash(bed)
    with pytest.raises(ValueError, match=message):
        run(bed, **changes)
    assert base_hash(bed) == before


def test_a_foreign_text_encoder_is_refused(bed: Playground) -> None:
    foreign = dataclasses.replace(bed, clip=Text(LAYOUTS["SDXL"]))
    with pytest.raises(ValueError, match="text of width 2048, the SD15 MODEL reads 768"):
        run(foreign)


def test_a_checkpoint_without_a_part_is_named(bed: Playground) -> None:
    from concept_erasure.nodes.erased_unet import apply

    with pytest.raises(
        ValueError, match=r"CLIP is empty: this checkpoint has no text encoder; load one with Load CLIP"
    ):
        run(dataclasses.replace(bed, clip=None))
    nothing = dataclasses.replace(bed, model=None)
    for fails in (lambda: run(nothing), lambda: apply(nothing.model, None, 1.0)):
        with pytest.raises(ValueError, match=r"MODEL is empty: .*load one with Load Diffusion Model"):
            fails()


def test_a_candidate_that_the_text_encoder_cannot_see_is_named(bed: Playground, few_words) -> None:
    from concept_erasure.nodes.adversarial import FindAdversarialConcept

    erased, _ = run(bed)
    with pytest.raises(ValueError, match=r"'\(\)': the text encoder sees nothing in it"):
        FindAdversarialConcept.execute(
            bed.model, bed.clip, "circle", "everyday_words", 3, 64, 64, 0, candidates="ring\n()", erased_unet=erased
        )


@pytest.mark.parametrize("prefix", ["../escape", "/etc/passwd", "a/../../b", "C:\\x", "", "..\\up"])
def test_file_names_stay_in_the_output_folder(prefix: str) -> None:
    from concept_erasure.nodes.erased_unet import safe_prefix

    with pytest.raises(ValueError, match="leads out of the output folder"):
        safe_prefix(prefix)
    assert safe_prefix("shapes/circle").parts == ("shapes", "circle")


@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        ("n" * 300, "a part of 300 bytes; give one of at most 200"),
        ("\u00e9" * 101 + "/circle", "a part of 202 bytes"),
        ("cir\0cle", "holds a control character"),
        ("cir\ncle", "holds a control character"),
    ],
)
def test_file_names_that_no_file_can_have_are_refused(prefix: str, message: str) -> None:
    from concept_erasure.nodes.erased_unet import safe_prefix

    with pytest.raises(ValueError, match=message):
        safe_prefix(prefix)


def saved(erased: ErasedUNet, folder: Path, monkeypatch) -> list[str]:
    """What Save Erased UNet shows on the node, with `folder` as ComfyUI's output folder."""
    from concept_erasure.nodes import host
    from concept_erasure.nodes.erased_unet import SaveErasedUNet

    shown: list[tuple[str, str]] = []
    monkeypatch.setattr(host, "output_folder", lambda: str(folder))
    monkeypatch.setattr(host, "send_text", lambda text, node: shown.append((text, node)))
    SaveErasedUNet.execute(erased, "shapes/circle")
    assert {node for _, node in shown} == {"7"}
    return [text for text, _ in shown]


def test_saving_shows_where_and_a_full_disk_leaves_the_old_files(tmp_path: Path, monkeypatch) -> None:
    output = tmp_path / "output"
    source = Provenance("ap", {}, (("circle", ""),), (), 7, "SD15")
    key = ErasedUNet({"erasure.a": torch.ones(1)}, dataclasses.replace(source, kind="hook"))
    erased = ErasedUNet({"diffusion_model.a.diff": torch.ones(1)}, source, key)
    paths = [
        output / "loras" / "shapes" / "circle_00001_.safetensors",
        output / "erased_unets" / "shapes" / "circle_key_00001_.safetensors",
    ]
    assert saved(erased, output, monkeypatch) == ["\n".join(f"saved {path}" for path in paths)]
    before = {path: path.read_bytes() for path in paths}

    monkeypatch.setattr(os, "fsync", failing(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(OSError, match=r"circle_00002_\.safetensors .*Free some space"):
        saved(erased, output, monkeypatch)
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before
