"""A toy detector of coloured things."""

from __future__ import annotations

import torch
from concept_erasure.erasure_core.evaluation.judges.detector import Detection, Detector
from concept_erasure.erasure_core.evaluation.judges.judge import ConceptJudge, Factor

HANDS, EARS, HATS = "HANDS", "EARS", "HATS"


def find(pictures: torch.Tensor):
    """A toy detector: red is the score of hands, twice if above one half; green that of ears, blue that of hats."""
    found = []
    for red, green, blue in pictures[:, 0, 0].tolist():
        hands = [Detection(HANDS, red)] * (2 if red > 0.5 else 1)
        found.append(tuple(one for one in (*hands, Detection(EARS, green), Detection(HATS, blue)) if one.score >= 0.25))
    return found


def judge(threshold: float = 0.6) -> ConceptJudge:
    """A judge of limbs with that detector; hats do not count."""
    detector = Detector(find, (HANDS, EARS), threshold, 0.25, "a toy")
    return ConceptJudge(
        "toy", (Factor("limbs", ("limbs, hands", "none"), lambda p: detector.scores(find(p)), near=("tree",)),),
        detector=detector,
    )  # fmt: skip
