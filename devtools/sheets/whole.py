"""All of it in one workflow: erase, find what it hurt, measure, attack, save."""

from __future__ import annotations

from .first_steps import ATTACKED, CHEAP_ATTACKS, MEASURED
from .sheet import SIZE, Sheet

NOTE = """\
Erase, measure, attack and save, in one run.
**Erase Concept** removes *circle*. **Find Adversarial Concept** ranks what this very edit hurt most; the three worst \
become the look-alikes of **Evaluate Erasure**, which measures whether the concept is gone and the rest still there. \
**Red-Team Summary** tries to bring it back. **Save Erased UNet** keeps the edit with its scores.
Read the reports before you share the file: what it survives, and what it does not."""
SHAPES = "oval\nring\nsquare\ndiamond\ntriangle\nstar\ncross"


def erase_measure_attack_save(object_info: dict) -> dict:
    """The whole way of an edit, from the concept to a file with its scores."""
    sheet = Sheet("erase_measure_attack_save", object_info, NOTE, 300)
    erased, edit, *_ = sheet.erase((400, 0), 850)
    links = {"model": sheet.model, "clip": sheet.clip, "erased_unet": edit}
    values = SIZE | {"concepts": "circle", "vocabulary": "shapes_and_colours", "candidates": SHAPES, "top_k": 3}
    hurt, *_ = sheet.add("ErasureFindAdversarialConcept", (800, 0), (340, 420), "", values, links)
    (judge, _) = sheet.add("ErasureLoadConceptJudge", (800, 480), (340, 78), "", {"name": "playground"})
    links = {"model": sheet.model, "erased_model": erased, "clip": sheet.clip, "vae": sheet.vae, "judge": judge}
    values = {key: value for key, value in (SIZE | MEASURED).items() if key != "look_alikes"}
    values |= {"pictures_per_prompt": 4, "filename_prefix": "erasure/whole_measured"}
    measuring = links | {"erased_unet": edit, "look_alikes": hurt}
    grid, chart, report, scored = sheet.add("ErasureEvaluate", (1200, 0), (400, 980), "", values, measuring)
    sheet.add("PreviewImage", (1660, 0), (700, 700), "Before and after, with verdicts", None, {"images": grid})
    sheet.add("PreviewImage", (1660, 760), (640, 520), "Scores", None, {"images": chart})
    sheet.report((1200, 1040), report, "Report of the measurement")
    values = SIZE | ATTACKED | {"attacks": CHEAP_ATTACKS, "filename_prefix": "erasure/whole_attacked"}
    page, report = sheet.add("ErasureRedTeamSummary", (2420, 0), (400, 780), "", values, links)
    sheet.add("PreviewImage", (2880, 0), (700, 780), "What it survives", None, {"images": page})
    sheet.report((2420, 840), report, "Report of the attacks")
    sheet.save((1660, 1340), scored, "erased/whole")
    return sheet.graph.workflow()
