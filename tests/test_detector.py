"""Detector judges: what counts, the curve, and NudeNet's own package where it is installed."""

from __future__ import annotations

import builtins
import importlib.util

import pytest
import torch
from concept_erasure.erasure_core.evaluation.judges.judge import ConceptJudge
from concept_erasure.erasure_core.evaluation.judges.nude_detector import (
    CLASSES,
    CLEAR,
    EXPOSED,
    NAME,
    NEAR,
    NUDITY,
    load_nude_detector,
    parse_classes,
)
from concept_erasure.erasure_core.evaluation.prompts import EMPTY, RETAIN, TARGET, Prompt
from concept_erasure.erasure_core.evaluation.run import Job, Watcher, evaluate
from concept_erasure.erasure_core.evaluation.sampler import Samples, Sampling
from erasure_tests.detectors import EARS, HANDS, HATS, judge

SAMPLING = Sampling(8, 8, 1, 1.0, "euler", "normal")


class Colours:
    """A painter whose pictures have the colour that a prompt says in numbers."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor

    def draw(self, prompts, _seeds, _scale=None) -> Samples:
        """See `ImageSampler`."""
        rows = [[self.factor * float(word) for word in (prompt or "0 0 0").split()[-3:]] for prompt in prompts]
        pictures = torch.tensor(rows).reshape(-1, 1, 1, 3).expand(-1, 2, 2, 3)
        return Samples(pictures.clone(), pictures.clone())


PROMPTS = (
    Prompt("a 0.9 0.3 0.0", TARGET, "limbs"),
    Prompt("b 0.0 0.0 0.9", TARGET, "limbs"),
    Prompt("c 0.4 0.65 0.9", TARGET, "limbs"),
    Prompt("d 0.5 0.1 0.1", RETAIN, "none"),
    Prompt("", EMPTY),
)


def evaluation(threshold: float = 0.6):
    """Of an edit that halves every score."""
    return evaluate(Job(Colours(), Colours(0.5), judge(threshold), ("limbs",), PROMPTS, 1, 0, SAMPLING), Watcher())


def test_a_picture_shows_the_concept_if_a_class_that_counts_reaches_the_threshold() -> None:
    shown = torch.tensor([[0.6, 0, 0], [0.59, 0, 0.99], [0, 0, 0]]).reshape(3, 1, 1, 3)
    one = judge()
    assert [look["limbs"][0] for look in one.seen(shown)] == ["limbs, hands", "none", "none"]
    assert [look["limbs"][0] for look in judge(0.5).seen(shown)] == ["limbs, hands", "limbs, hands", "none"]
    sure = one.confidence(shown, "hands").tolist()
    assert sure[0] == pytest.approx(0.5, abs=1e-4) and 0.5 > sure[1] > 0.4 > sure[2]
    assert one.factors[0].others("limbs") == ["tree"], "that nothing is there is no concept to learn"


def test_detections_and_pictures_are_counted_by_class_beside_the_base_row_and_over_the_thresholds() -> None:
    done = evaluation()
    rows = {row.score: (row.base.per_cent, row.erased.per_cent) for row in done.proportions() if row.group == TARGET}
    assert rows == {"ESR-1": (33.33, 100)}
    found = done.scores()["detections"]
    assert found["threshold"] == 0.6 and found["classes"] == [HANDS, EARS] and found["about"] == "a toy"
    counts = {(one["group"], one["class"]): (one["base"], one["erased"], one["n"]) for one in found["counts"]}
    nothing = {"detections": 0, "pictures": 0}
    assert counts[TARGET, HANDS] == ({"detections": 2, "pictures": 1}, nothing, 3)
    assert counts[TARGET, EARS] == ({"detections": 1, "pictures": 1}, nothing, 3)
    assert counts[TARGET, "any of these"] == ({"detections": 3, "pictures": 2}, nothing, 3)
    assert (TARGET, HATS) not in counts and (RETAIN, HANDS) not in counts and (EMPTY, "any of these") in counts
    curve = {(one["group"], one["model"]): one["per_cent"] for one in found["curve"]}
    assert found["curve"][0]["thresholds"] == [0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    assert curve[TARGET, "base"] == [66.67, 66.67, 66.67, 66.67, 33.33, 33.33]
    assert curve[TARGET, "erased"] == [66.67, 33.33, 0, 0, 0, 0]
    text = done.markdown()
    assert (
        "| target | HANDS | 2 in 1 of 3 | 0 in 0 of 3 |" in text
        and "| target | erased | 66.7 % | 33.3 % | 0.0 %" in text
    )
    assert "at least 0.6 of HANDS, EARS; a toy" in text
    assert done.as_json()["pictures"][0]["base_found"][0] == {"kind": HANDS, "score": pytest.approx(0.9)}


def test_the_pictures_of_another_judge_have_no_detections() -> None:
    plain = ConceptJudge("plain", judge().factors)
    done = evaluate(Job(Colours(), Colours(), plain, ("limbs",), PROMPTS, 1, 0, SAMPLING), Watcher())
    assert "detections" not in done.scores() and "base_found" not in done.as_json()["pictures"][0]


def test_the_classes_that_count_are_read_from_lines_or_commas_and_an_unknown_one_is_named() -> None:
    assert parse_classes("belly exposed, FEET_EXPOSED\n\nbelly_exposed") == ("BELLY_EXPOSED", "FEET_EXPOSED")
    assert len(set(CLASSES)) == 18 and set(EXPOSED) < set(CLASSES)
    for text, said in (("KNEES", "no class 'KNEES'.*BUTTOCKS_EXPOSED"), (" \n", "no class is left")):
        with pytest.raises(ValueError, match=said):
            parse_classes(text)


@pytest.mark.parametrize("threshold", [0.2, 1.0])
def test_a_threshold_that_the_detector_cannot_have_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match=f"threshold is {threshold:g}"):
        load_nude_detector(threshold)


@pytest.mark.parametrize("missing", ["nudenet", "onnxruntime"])
def test_without_the_packages_the_message_has_the_command_that_installs_them(monkeypatch, missing: str) -> None:
    original = builtins.__import__

    def without(name, *rest):
        if name == "nudenet":
            raise ModuleNotFoundError(f"No module named {missing!r}")
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=rf"nudenet \(detector\).*{missing}.*-m pip install nudenet onnxruntime'"):
        load_nude_detector()


installed = pytest.mark.skipif(
    importlib.util.find_spec("nudenet") is None or importlib.util.find_spec("onnxruntime") is None,
    reason="the optional packages nudenet and onnxruntime are not installed",
)


@installed
def test_nudenet_sees_pictures_as_its_own_package_reads_them_from_files(tmp_path) -> None:
    from nudenet import NudeDetector
    from PIL import Image, ImageDraw

    # a disc the colour of skin: no nudity, and yet something is found in it
    drawing = Image.new("RGB", (256, 320), (128, 128, 128))
    ImageDraw.Draw(drawing).ellipse((40, 60, 220, 240), fill=(200, 150, 120))
    drawing.save(tmp_path / "disc.png")
    shown = torch.tensor(list(drawing.tobytes()), dtype=torch.float32).reshape(1, 320, 256, 3) / 255
    one = load_nude_detector(0.25, CLASSES)
    (found,) = one.detector.find(shown)
    said = NudeDetector().detect(str(tmp_path / "disc.png"))
    assert found and [(each["class"], round(each["score"], 4)) for each in said] == [(d.kind, d.score) for d in found]
    assert "320n" in one.detector.text() and "blue, green, red" in one.detector.text()
    assert one.labelled(["Nudity"]).factor_of("naked").labels == (NUDITY, CLEAR) and one.name == NAME
    assert one.factors[0].others("nude") == list(NEAR)
    assert one.confidence(shown, "nudity").item() >= 0.5 > load_nude_detector(0.9).confidence(shown, "nudity").item()
    assert len(one.look(shown.repeat(11, 1, 1, 1))) == 11
