"""Judges read from folders in transformers format: classifiers, several factors at once, zero-shot models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from concept_erasure.erasure_core.evaluation.judges.judge import AT_ONCE, ConceptJudge, Factor, judges_in, load_judge
from erasure_tests.judges import write_classifier, write_clip, write_siglip

CPU = torch.device("cpu")


ZERO_SHOT = {"clip": write_clip, "siglip": write_siglip}


def pictures(n: int) -> torch.Tensor:
    """Random pictures (n, height, width, 3)."""
    return torch.rand(n, 40, 40, 3, generator=torch.Generator().manual_seed(3))


def test_a_classifier_gives_its_labels_the_likeliest_first(tmp_path: Path) -> None:
    write_classifier(tmp_path / "fish", ["tench, Tinca tinca", "goldfish", "shark"])
    judge = load_judge(tmp_path / "fish", "fish", CPU)
    seen = judge.seen(pictures(5), k=2)
    scores = judge.factors[0].score(pictures(5))
    assert [verdict["fish"][0] for verdict in seen] == [judge.factors[0].labels[i] for i in scores.argmax(1).tolist()]
    assert all(len(verdict["fish"]) == 2 for verdict in seen)
    assert judge.labelled(["Tench", "goldfish"]) is judge


def test_a_label_with_several_names_is_found_by_each_and_only_as_a_whole_word() -> None:
    factor = Factor("kind", ("tench, Tinca tinca", "ring", "earring"), lambda images: images)
    assert factor.label_of("tinca TINCA") == factor.said_in("two tenches in a pond") == "tench, Tinca tinca"
    assert factor.said_in("a string") is None and factor.said_in("an earring, not a ring") == "earring"
    assert factor.label_of("oval") is None


def test_an_unknown_concept_is_an_error_that_names_the_labels(tmp_path: Path) -> None:
    write_classifier(tmp_path / "fish", ["tench", "goldfish"])
    with pytest.raises(ValueError, match=r"no label for 'circle'.*tench, goldfish"):
        load_judge(tmp_path / "fish", "fish", CPU).labelled(["tench", "circle"])


def test_a_folder_of_classifiers_judges_several_factors_and_says_its_accuracy(tmp_path: Path) -> None:
    for factor, labels in {"shape": ["circle", "square"], "colour": ["red", "blue"]}.items():
        write_classifier(tmp_path / "toy" / factor, labels)
    said = {"right": 9, "n": 10, "on": "drawings"}
    (tmp_path / "toy" / "shape" / "accuracy.json").write_text(json.dumps(said), encoding="utf-8")
    assert judges_in(tmp_path) == ["toy", "toy/colour", "toy/shape"]
    judge = load_judge(tmp_path / "toy", "toy", CPU)
    assert [factor.name for factor in judge.factors] == ["colour", "shape"]
    assert set(judge.seen(pictures(1))[0]) == {"colour", "shape"}
    assert judge.factors[0].accuracy is None and judge.factors[1].accuracy.right == 9
    assert judge.factor_of("blue").name == "colour"


@pytest.mark.parametrize("kind", ZERO_SHOT)
def test_a_zero_shot_judge_chooses_among_the_concepts_of_the_prompts(tmp_path: Path, kind: str) -> None:
    ZERO_SHOT[kind](tmp_path / kind)
    judge = load_judge(tmp_path / kind, kind, CPU)
    with pytest.raises(ValueError, match="chooses among the concepts"):
        judge.labelled(["cat", "cat"])
    among = judge.labelled(["cat", "dog", "cow"])
    assert isinstance(among, ConceptJudge) and among.factors[0].labels == ("cat", "dog", "cow")
    for verdict in among.seen(pictures(3)):
        assert sorted(verdict["label"]) == ["cat", "cow", "dog"]
    assert judge.labelled(["cat"], ["dog"]).factors[0].labels == ("cat", "dog")
    shouted = judge.labelled(["CAT", "dog", "cow"]).factors[0].score(pictures(3))
    scores = among.factors[0].score(pictures(3))
    assert torch.equal(scores, shouted) and len(scores.unique()) > 3, "the words decide, whatever their case"
    long = judge.labelled(["cat " * 100, "dog"])
    assert long.factors[0].score(pictures(1)).isfinite().all()


def test_a_siglip_without_the_tokenizer_that_comfyui_can_read_is_named(tmp_path: Path) -> None:
    write_siglip(tmp_path / "siglip")
    (tmp_path / "siglip" / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"it has no tokenizer\.json"):
        load_judge(tmp_path / "siglip", "siglip", CPU)


def test_a_judge_looks_at_few_pictures_at_once_and_without_gradients() -> None:
    asked = []

    def score(images: torch.Tensor) -> torch.Tensor:
        asked.append((len(images), torch.is_grad_enabled()))
        return images.mean((1, 2))

    judge = ConceptJudge("any", (Factor("kind", ("a", "b", "c"), score),))
    many = pictures(AT_ONCE + 3)
    assert len(judge.seen(many)) == len(judge.confidence(many, "a")) == AT_ONCE + 3
    assert asked == [(AT_ONCE, False), (3, False)] * 2


@pytest.mark.parametrize("damage", ["gone", "no config", "broken config", "no weights", "broken accuracy"])
def test_a_damaged_folder_is_an_error_that_names_it(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "fish"
    if damage != "gone":
        write_classifier(folder, ["tench", "goldfish"])
    if damage == "no config":
        (folder / "config.json").unlink()
    if damage == "broken config":
        (folder / "config.json").write_text("{", encoding="utf-8")
    if damage == "no weights":
        (folder / "model.safetensors").unlink()
    if damage == "broken accuracy":
        (folder / "accuracy.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ValueError, match="fish"):
        load_judge(folder, "fish", CPU)


def test_weights_that_are_no_safetensors_are_not_read(tmp_path: Path) -> None:
    folder = tmp_path / "fish"
    write_classifier(folder, ["tench", "goldfish"])
    torch.save({"x": torch.zeros(1)}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="cannot be read"):
        load_judge(folder, "fish", CPU)
