"""Faults of a judge's folder: each is named when it is loaded, with the folder, and none waits for a verdict."""

from __future__ import annotations

import builtins
import json
from pathlib import Path

import pytest
import torch
from concept_erasure.erasure_core.evaluation.judges.judge import load_judge
from erasure_tests.judges import write_classifier, write_clip
from safetensors.torch import load, save_file

CPU = torch.device("cpu")
LABELS = ["tench", "goldfish", "shark"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A judge that is right."""
    write_classifier(tmp_path / "fish", LABELS)
    load_judge(tmp_path / "fish", "fish", CPU)
    return tmp_path / "fish"


def rewrite(path: Path, **fields) -> None:
    """Change fields of a JSON file; None removes one."""
    said = json.loads(path.read_text("utf-8")) | fields
    path.write_text(json.dumps({key: value for key, value in said.items() if value is not None}), encoding="utf-8")


MAPS = {
    "a list": (LABELS, "is a list"),
    "missing": (None, "is missing"),
    "a gap": ({"0": "tench", "2": "goldfish", "3": "shark"}, "none with the number 1"),
    "counted from 1": ({"1": "tench", "2": "goldfish", "3": "shark"}, "number 0: it counts from 1"),
    "one label": ({"0": "tench"}, "the one label 'tench'"),
    "no label": ({}, "has no label"),
    "unnamed": ({"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}, "called LABEL_0, LABEL_1"),
    "no text": ({"0": "tench", "1": 7, "2": "shark"}, "empty or no text"),
    "too few": (
        {"0": "tench", "1": "shark"},
        "'classifier.*is 3.*, and config.json asks for 2",
    ),
}


@pytest.mark.parametrize("what", MAPS)
def test_a_label_map_that_does_not_fit_is_named_with_the_folder(folder: Path, what: str) -> None:
    labels, said = MAPS[what]
    rewrite(folder / "config.json", id2label=labels, label2id=None, num_labels=None)
    with pytest.raises(ValueError, match=f"the judge 'fish' in .*fish.*{said}"):
        load_judge(folder, "fish", CPU)


def test_several_labels_at_once_and_pictures_of_any_size_are_refused(folder: Path) -> None:
    rewrite(folder / "config.json", problem_type="multi_label_classification")
    with pytest.raises(ValueError, match=r"fish.*several labels at once"):
        load_judge(folder, "fish", CPU)
    rewrite(folder / "config.json", problem_type=None)
    rewrite(folder / "preprocessor_config.json", do_resize=False)
    with pytest.raises(ValueError, match=r"fish.*do_resize: false"):
        load_judge(folder, "fish", CPU)


@pytest.mark.parametrize(
    "said", [[], {"right": 0, "n": 0, "on": "x"}, {"right": 3, "n": 2, "on": "x"}, {"right": 1.5, "n": 2, "on": "x"},
             {"right": 1, "n": 2}, {"right": True, "n": 2, "on": "x"}, {"right": 1, "n": 2, "on": "x", "more": 1}],
)  # fmt: skip
def test_an_accuracy_that_is_no_share_is_refused(folder: Path, said) -> None:
    (folder / "accuracy.json").write_text(json.dumps(said), encoding="utf-8")
    with pytest.raises(ValueError, match=r"fish.*accuracy\.json"):
        load_judge(folder, "fish", CPU)


def test_weights_that_are_cut_off_not_finite_or_lack_the_head_are_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    tensors = load(whole)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"the judge 'fish' in .*fish cannot be read"):
        load_judge(folder, "fish", CPU)
    head = next(key for key in tensors if key.startswith("classifier") and key.endswith("weight"))
    save_file(tensors | {head: torch.full_like(tensors[head], float("nan"))}, path, {"format": "pt"})
    with pytest.raises(ValueError, match=f"fish.*'{head}'.*is not finite"):
        load_judge(folder, "fish", CPU)
    save_file({key: value for key, value in tensors.items() if key != head}, path, {"format": "pt"})
    with pytest.raises(ValueError, match=f"fish.*lacks 1 tensors.*'{head}'"):
        load_judge(folder, "fish", CPU)


@pytest.mark.parametrize("said", ["[]", "7", "{", "[" * 100_000])
def test_a_configuration_without_fields_is_refused(folder: Path, said: str) -> None:
    (folder / "config.json").write_text(said, encoding="utf-8")
    with pytest.raises(ValueError, match=r"the judge 'fish' in .*fish cannot be used: config\.json"):
        load_judge(folder, "fish", CPU)


def test_a_clip_with_weights_that_are_not_finite_is_refused(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip")
    path = tmp_path / "clip" / "model.safetensors"
    tensors = load(path.read_bytes())
    tensors["logit_scale"] = torch.tensor(float("inf"))
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(ValueError, match=r"clip.*'logit_scale'.*is not finite"):
        load_judge(tmp_path / "clip", "clip", CPU)


def test_a_timm_folder_without_timm_says_what_to_install(folder: Path, monkeypatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "timm" else find(name, *more))
    timm = {"architecture": "resnet18", "num_classes": 3, "pretrained_cfg": {"input_size": [3, 32, 32]}}
    (folder / "config.json").write_text(json.dumps(timm), encoding="utf-8")
    with pytest.raises(ValueError, match=r"fish.*timm model.*pip install timm"):
        load_judge(folder, "fish", CPU)


def test_a_missing_library_is_not_blamed_on_the_folder(folder: Path, monkeypatch) -> None:
    original = builtins.__import__

    def without(name, *rest):
        if name == "transformers":
            raise ImportError("No module named 'torchvision'")
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r"fish needs a library.*torchvision.*Install it with pip") as raised:
        load_judge(folder, "fish", CPU)
    assert "get the folder again" not in str(raised.value)
