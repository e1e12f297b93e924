"""Bad input and failures in the real host: each is named, says what to do, and leaves the base model as it was."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from concept_erasure.erasure_core.erased_unet import ErasedUNet, Provenance
from erasure_tests.families import Text
from erasure_tests.layouts import LAYOUTS
from erasure_tests.runs import QUICK, base_hash, run
from erasure_tests.small import make

from testbed.playground import Playground

pytestmark = pytest.mark.usefixtures("testbed", "as_a_node_runs", "few_words")


@pytest.fixture(autouse=True)
def hidden(testbed: Playground, monkeypatch) -> None:
    """What ComfyUI sets on the nodes' classes before it runs them."""
    from concept_erasure.nodes import adversarial, erase, erased_unet

    for node in (erase.EraseConcept, adversarial.FindAdversarialConcept, erased_unet.SaveErasedUNet):
        monkeypatch.setattr(node, "hidden", SimpleNamespace(unique_id="7"), raising=False)


def test_a_failing_run_leaves_the_base_as_it_was(testbed: Playground, monkeypatch) -> None:
    from concept_erasure.erasure_core.training import run as training

    before = base_hash(testbed)
    monkeypatch.setattr(training, "squared_error", lambda predicted, *_a: predicted * float("nan"))
    with pytest.raises(FloatingPointError, match="optimiser step 1 of 3"):
        run(testbed)
    assert base_hash(testbed) == before
    assert not any(module._forward_hooks for module in testbed.model.model.modules())


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
def test_running_out_of_memory_names_what_to_lower(testbed: Playground, monkeypatch, error: Exception) -> None:
    from concept_erasure.erasure_core.training import run as training
    from concept_erasure.nodes import host

    before = base_hash(testbed)
    monkeypatch.setattr(training, "squared_error", failing(error))
    with pytest.raises(
        RuntimeError, match=r"with esd\. Lower width and height, .* batch, trajectories, rank; the model"
    ):
        run(testbed)
    assert base_hash(testbed) == before and host.is_out_of_memory(error)
    assert not any(module._forward_hooks for module in testbed.model.model.modules())
    monkeypatch.setattr(training, "squared_error", failing(RuntimeError("another error")))
    with pytest.raises(RuntimeError, match=r"^another error$"):
        run(testbed)


def test_running_out_of_memory_after_the_erasure_is_named_too(testbed: Playground, few_words, monkeypatch) -> None:
    from concept_erasure.nodes import adversarial, erase, host

    erased, _ = run(testbed)
    monkeypatch.setattr(host, "patched", failing(MemoryError()))
    size = {"width": 64, "height": 64, "seed": 0}
    with pytest.raises(
        RuntimeError, match=r"erasing at 64x64 with uce\. Lower width and height, .* settings rank; the"
    ):
        erase.EraseConcept.execute(
            testbed.model, testbed.clip, "circle", {"method": "uce", "sentences": 1, "kept_sentences": 0}, **size
        )
    with pytest.raises(RuntimeError, match=r"while measuring concepts at 64x64\. Lower width and height; the model"):
        adversarial.FindAdversarialConcept.execute(
            testbed.model, testbed.clip, "circle", "everyday_words", 3, erased_unet=erased, **size
        )


def test_an_edit_that_is_not_finite_is_not_returned(testbed: Playground, monkeypatch) -> None:
    from concept_erasure.erasure_core.training import deltas

    def broken(_deltas: object) -> dict[str, torch.Tensor]:
        return {"a.diff": torch.tensor([float("nan")])}

    monkeypatch.setattr(deltas.Deltas, "export", broken)
    with pytest.raises(FloatingPointError, match=r"esd made holds NaN or infinity in 'diffusion_model\.a\.diff'"):
        run(testbed)


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
def test_bad_input_is_named(testbed: Playground, changes: dict, message: str) -> None:
    before = base_hash(testbed)
    with pytest.raises(ValueError, match=message):
        run(testbed, **changes)
    assert base_hash(testbed) == before


def test_a_foreign_text_encoder_is_refused(testbed: Playground) -> None:
    foreign = dataclasses.replace(testbed, clip=Text(LAYOUTS["SDXL"]))
    with pytest.raises(ValueError, match="text of width 2048, the SD15 MODEL reads 768"):
        run(foreign)


def test_a_checkpoint_without_a_part_is_named(testbed: Playground) -> None:
    from concept_erasure.nodes.erased_unet import apply

    with pytest.raises(
        ValueError, match=r"CLIP is empty: this checkpoint has no text encoder; load one with Load CLIP"
    ):
        run(dataclasses.replace(testbed, clip=None))
    nothing = dataclasses.replace(testbed, model=None)
    for fails in (lambda: run(nothing), lambda: apply(nothing.model, None, 1.0)):
        with pytest.raises(ValueError, match=r"MODEL is empty: .*load one with Load Diffusion Model"):
            fails()


def test_a_candidate_that_the_text_encoder_cannot_see_is_named(testbed: Playground, few_words) -> None:
    from concept_erasure.nodes.adversarial import FindAdversarialConcept

    erased, _ = run(testbed)
    with pytest.raises(ValueError, match=r"'\(\)': the text encoder sees nothing in it"):
        FindAdversarialConcept.execute(
            testbed.model,
            testbed.clip,
            "circle",
            "everyday_words",
            3,
            64,
            64,
            0,
            candidates="ring\n()",
            erased_unet=erased,
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

    with monkeypatch.context() as full:
        full.setattr(os, "fsync", failing(OSError(errno.ENOSPC, "No space left on device")))
        with pytest.raises(
            OSError, match=r"circle_00002_\.safetensors .*Free some space.*erasure itself is not lost.*Run again"
        ):
            saved(erased, output, monkeypatch)
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before
    (again,) = saved(erased, output, monkeypatch)
    assert "circle_00002_.safetensors" in again and "circle_key_00002_.safetensors" in again


def test_a_file_that_cannot_be_read_is_left_out_of_the_list(tmp_path: Path, monkeypatch, caplog) -> None:
    """What raises here, while ComfyUI loads the pack, takes every node of the pack away."""
    from concept_erasure.erasure_core.erased_unet import save_erased_unet
    from concept_erasure.nodes import erased_unet, host

    source = Provenance("ap", {}, (("circle", ""),), (), 7, "SD15")
    save_erased_unet(ErasedUNet({"diffusion_model.a.diff": torch.ones(1)}, source), tmp_path / "good.safetensors")
    (tmp_path / "folder.safetensors").mkdir()  # unreadable for every user, root too
    (tmp_path / "empty.safetensors").write_bytes(b"")
    (tmp_path / "hostile.safetensors").write_bytes(b"\xff" * 64 + b'attn2.to_k.weight"')
    names = [*(path.name for path in tmp_path.iterdir()), "gone.safetensors"]
    monkeypatch.setattr(host, "file_names", lambda kind: names if kind == "loras" else [])
    monkeypatch.setattr(host, "file_path", lambda _kind, name: str(tmp_path / name))
    assert erased_unet.available() == erased_unet.available() == ["good.safetensors"]
    assert erased_unet.LoadErasedUNet.define_schema() is not None
    assert len([record for record in caplog.records if "folder.safetensors" in record.getMessage()]) == 1


def test_thousands_of_loras_are_listed_quickly(tmp_path: Path, monkeypatch) -> None:
    from concept_erasure.nodes import erased_unet, host

    header = json.dumps(
        {f"lora_unet_down_blocks_{i}.lora_up.weight": {"dtype": "F16", "shape": [1]} for i in range(700)}
    )
    names = [f"lora_{number}.safetensors" for number in range(5000)]
    (tmp_path / "lora").write_bytes(len(header).to_bytes(8, "little") + header.encode())
    for name in names:
        os.link(tmp_path / "lora", tmp_path / name)
    monkeypatch.setattr(host, "file_names", lambda kind: names if kind == "loras" else [])
    monkeypatch.setattr(host, "file_path", lambda _kind, name: str(tmp_path / name))
    seconds = []
    for _ in range(2):
        started = time.process_time()
        assert erased_unet.available() == []
        seconds.append(time.process_time() - started)
    print(f"5000 LoRAs listed in {seconds[0]:.2f} s, again in {seconds[1]:.2f} s")
    assert seconds[0] < 5 and seconds[1] < 1


def test_a_preview_that_fails_is_given_up_and_the_erasure_goes_on(testbed: Playground) -> None:
    from concept_erasure.erasure_core.concepts import parse_request
    from concept_erasure.nodes.erase import erase

    calls = []

    class Vae:
        def decode(self, _latents: torch.Tensor) -> torch.Tensor:
            calls.append(1)
            raise RuntimeError("Given groups=1, weight of size [512, 16, 3, 3]")

    erased, report = erase(testbed.model, testbed.clip, parse_request("circle"), make("esd", **QUICK), 64, 64, Vae())
    plain, _ = run(testbed)
    assert len(calls) == 1 and any(
        "preview was given up at step 1" in note and "512, 16" in note for note in report.notes
    )
    assert all(torch.equal(erased.tensors[key], value) for key, value in plain.tensors.items())


def bits(module: torch.nn.Module) -> dict[str, bytes]:
    """Every weight and buffer, bit for bit: one that is NaN too."""
    return {key: value.reshape(-1).view(torch.uint8).numpy().tobytes() for key, value in module.state_dict().items()}


@pytest.mark.parametrize("name", ["esd"])
def test_text_that_is_not_finite_is_named_and_never_cached(
    testbed: Playground, name: str, monkeypatch, tmp_path: Path
) -> None:
    from concept_erasure.nodes.host.text import TextEncoder

    monkeypatch.setenv("CONCEPT_ERASURE_TEXT_CACHE", str(tmp_path))
    before, clip = base_hash(testbed), bits(testbed.clip.cond_stage_model)
    encode, asked = TextEncoder._encode, []

    def broken(self: TextEncoder, *tokens: object) -> list:
        states, others = encode(self, *tokens)
        asked.append(1)
        return [states * float("nan") if len(asked) == 4 else states, others]

    with monkeypatch.context() as patch:
        patch.setattr(TextEncoder, "_encode", broken)
        with pytest.raises(
            FloatingPointError, match=r"text encoder gives NaN or infinity for '.*'; nothing was returned"
        ):
            run(testbed, name)
    assert base_hash(testbed) == before and bits(testbed.clip.cond_stage_model) == clip
    healed, _ = run(testbed, name)
    monkeypatch.setenv("CONCEPT_ERASURE_TEXT_CACHE", "off")
    fresh, _ = run(testbed, name)
    assert all(torch.equal(healed.tensors[key], value) for key, value in fresh.tensors.items())


def test_an_acting_edit_for_another_network_is_refused_when_it_is_applied(testbed: Playground) -> None:
    from concept_erasure.nodes.erased_unet import apply

    source = Provenance("kpop", {}, (("circle", ""),), (), 7, "SD15", kind="hook")
    with pytest.raises(ValueError, match=r"acts on 'elsewhere\.attn2\.to_k', which this MODEL does not have"):
        apply(testbed.model, ErasedUNet({"erasure.elsewhere.attn2.to_k": torch.ones(2, 768)}, source), 1.0)
