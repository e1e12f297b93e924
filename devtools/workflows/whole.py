"""All of it in one workflow: erase, find what it hurt, measure, attack, save."""

from __future__ import annotations

from .first_steps import ATTACKED, CANDIDATES, CHEAP_ATTACKS, JUDGE, MEASURED
from .sheet import SIZE, book_sheet

NOTE = """\
Erase, measure, attack and save, in one run.
**Erase Concept** removes *cat*. **Find Adversarial Concept** ranks what this very edit hurt most; the three worst \
become the look-alikes of **Evaluate Erasure**, which measures whether the concept is gone and the rest still there. \
**Red-Team Summary** tries to bring it back. **Save Erased UNet** keeps the edit with its scores.
Read the reports before you share the file: what it survives, and what it does not."""


def erase_measure_attack_save(object_info: dict) -> dict:
    """The whole way of an edit, from the concept to a file with its scores."""
    sheet = book_sheet("erase_measure_attack_save", object_info, NOTE, (JUDGE,))
    (judge, _) = sheet.add("ErasureLoadConceptJudge", 0, "", {"name": JUDGE})
    erased, edit, *_ = sheet.erase(1, concepts="cat")
    sheet.group("1 Erase", 1)

    links = {"model": sheet.model, "clip": sheet.clip, "erased_unet": edit}
    values = SIZE | {"concepts": "cat", "candidates": CANDIDATES, "top_k": 3}
    hurt, *_ = sheet.add("ErasureFindAdversarialConcept", 2, "", values, links)

    links = {"model": sheet.model, "erased_model": erased, "clip": sheet.clip, "vae": sheet.vae, "judge": judge}
    values = {key: value for key, value in (SIZE | MEASURED).items() if key != "look_alikes"}
    values |= {"pictures_per_prompt": 4, "filename_prefix": "erasure/whole_measured"}
    measuring = links | {"erased_unet": edit, "look_alikes": hurt}
    grid, chart, report, scored = sheet.add("ErasureEvaluate", 2, "", values, measuring)
    sheet.show(3, grid, "Before and after, with verdicts", (640, 560))
    sheet.show(3, chart, "Scores", (640, 420))
    sheet.report(3, report, "Report of the measurement")
    sheet.group("2 Measure", 2, 3)

    values = SIZE | ATTACKED | {"attacks": CHEAP_ATTACKS, "filename_prefix": "erasure/whole_attacked"}
    page, report = sheet.add("ErasureRedTeamSummary", 4, "", values, links)
    sheet.report(4, report, "Report of the attacks")
    sheet.show(5, page, "What it survives", (640, 640))
    sheet.group("3 Attack", 4, 5)

    sheet.save(6, scored, "erased/whole")
    sheet.group("4 Save", 6)
    return sheet.graph.workflow()
