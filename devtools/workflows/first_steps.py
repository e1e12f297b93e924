"""Workflows about AP, the default method, and about what can be done with an edit once it is saved."""

from __future__ import annotations

from dataclasses import replace

from .graph import Output
from .sheet import PLAYGROUND, SAMPLING, SIZE, SMALL, Sheet, book_sheet

SAVED = "erased/concept_00001_.safetensors"
"""The file that `erase_and_compare` saves in its first run."""
READY = "playground_erased_circle.safetensors"
"""An edit that comes with the playground checkpoint, among the LoRAs."""
BOOK_READY = "picture_book_erased_cat.safetensors"
"""One that comes with the picture book."""
JUDGE = "picture_book"
"""The judge of the picture book's things and styles."""
STYLES = ("flat", "shaded", "glossy")
"""The words for the picture book's drawing styles."""
THREE = replace(SMALL, pictures=3)
"""A short row of pictures for each of many prompts."""
CANDIDATES = (
    "lion\ntiger\nleopard\ndog\nwolf\nfox\nhorse\nmonkey\nowl\nturtle\nshark\nant\nrose\nstrawberry\nhamburger\nbicycle\nhouse\n"
    "violin\nhammer\nchair"
)
"""Things of the picture book from many groups, near to a cat and far from it."""

ERASE_NOTE = """\
**Erase Concept** removes *cat* from the loaded model by Adversarial Preservation and hands out a patched clone; \
the loaded model stays as it was.
The pictures compare both on the same noise, in three drawing styles: cats go, lions stay.
The edit is saved to `output/loras/erased/`, where **Load Erased UNet** and the stock LoRA loader find it."""
ADVERSARIAL_NOTE = """\
**Find Adversarial Concept** makes a short trial erasure of *cat*, measures which of the `candidates` it hurts most, and \
draws them as a chart.
Its list is linked into **Erase Concept**'s `retain`, so that these very concepts are kept.
The pictures show a look-alike on the same noise, before and after."""
STRENGTHS_NOTE = """\
**Load Erased UNet** reads an edit from its file: here one that comes with the playground checkpoint, otherwise one of yours, \
made from the same checkpoint (press R if the list does not show it yet).
The same edit is applied at strength 0.5, 1.0 and 1.5, and the same noise is sampled with each. \
Lower erases less, higher erases harder and hurts more."""
LORA_NOTE = """\
Both branches load one file: here one that comes with the playground checkpoint, otherwise one of yours, made from the \
same checkpoint (press R if the lists do not show it yet).
An erased UNet that only changes weights is an ordinary LoRA file: the stock **Load LoRA** node and our \
**Apply Erased UNet** give the same pictures, so nobody needs this pack to use what you made."""

EVALUATE_NOTE = """\
**Evaluate Erasure** draws the same prompts with the loaded and the erased model, from the same noise, and \
**Load Concept Judge** says what each picture shows.
The grid shows both models with the verdicts below, the chart every score with its 95 % interval: *target* and *synonym* \
should be gone (ESR), *look-alike* and *retain* still there (PSR, beside the loaded model's own), and the drawing style as \
the prompt says. *Drift* is how far the pictures have moved.
The scores go with the edit into **Save Erased UNet**; grid, chart, report and a JSON file lie in `output/erasure/`."""
RED_TEAM_NOTE = """\
Is *cat* gone, or only the word? **Red-Team Summary** attacks the edit that comes with the picture book in several ways: \
other words, words next to it, the first steps drawn by the loaded model, a picture of a cat to start from.
**Red-Team Concept** runs one attack and shows its pictures: here a small LoRA is trained on the erased model, which takes \
eight pictures of cats and some seconds.
Red: the attack brings cats back more often than no attack does, and than its control (gray), which does not know what \
a cat is. `attempts` is small, so that this runs in a minute or two, and the intervals are wide.
Pages, reports and JSON files lie in `output/erasure/`."""


def erase_and_compare(object_info: dict) -> dict:
    """Erase, look before and after, save."""
    sheet = book_sheet("erase_and_compare", object_info, ERASE_NOTE, drawing=THREE)
    erased, edit, losses, report = sheet.erase(1, links={"vae": sheet.vae}, concepts="cat")
    sheet.group("Erase", 1)
    sheet.save(2, edit, "erased/concept")
    sheet.report(2, report)
    sheet.add("LossGraphNode", 2, "", None, {"loss": losses}, (0, 280))
    sheet.group("Keep and read", 2)
    prompts = [f"{thing} in {style} style" for thing in ("a cat", "a lion") for style in STYLES]
    sheet.compare({"before": sheet.model, "after": erased}, prompts, 3, "erase_and_compare")
    return sheet.graph.workflow()


def find_adversarial_and_retain(object_info: dict) -> dict:
    """Find what the erasure would hurt, and keep that."""
    sheet = book_sheet("find_adversarial_and_retain", object_info, ADVERSARIAL_NOTE)
    links = {"model": sheet.model, "clip": sheet.clip}
    values = SIZE | {"concepts": "cat", "candidates": CANDIDATES, "top_k": 8}
    found, chart, ranking = sheet.add("ErasureFindAdversarialConcept", 1, "", values, links)
    sheet.show(1, chart, "What erasing cat hurts most")
    sheet.report(1, ranking, "Ranking")
    sheet.group("Find what it would hurt", 1)
    links = {"vae": sheet.vae, "retain": found}
    erased, *_ = sheet.erase(2, "Erase Concept, retaining them", links, concepts="cat")
    sheet.group("Erase", 2)
    sheet.compare({"before": sheet.model, "after": erased}, ["a cat", "a lion"], 3)
    return sheet.graph.workflow()


def _loaded(sheet: Sheet, name: str = READY) -> Output:
    """A ready edit."""
    (edit,) = sheet.add("ErasureLoadErasedUNet", 1, "", {"name": name})
    return edit


def apply_at_three_strengths(object_info: dict) -> dict:
    """One file at three strengths."""
    sheet = Sheet("apply_at_three_strengths", object_info, STRENGTHS_NOTE, needs=(PLAYGROUND, READY)).checkpoint()
    edit = _loaded(sheet)
    models = {
        f"strength {strength}": sheet.apply(1, sheet.model, edit, f"Apply at {strength}", strength)
        for strength in (0.5, 1.0, 1.5)
    }
    sheet.group("Load and apply", 1)
    sheet.compare(models, ["a red circle"], 2)
    return sheet.graph.workflow()


def stock_lora_loader(object_info: dict) -> dict:
    """The same file by ComfyUI's own node and by ours."""
    sheet = Sheet("stock_lora_loader", object_info, LORA_NOTE, needs=(PLAYGROUND, READY)).checkpoint()
    ours = sheet.apply(1, sheet.model, _loaded(sheet))
    values, links = {"lora_name": READY, "strength_model": 1.0}, {"model": sheet.model}
    (stock,) = sheet.add("LoraLoaderModelOnly", 1, "Load LoRA (stock)", values, links)
    sheet.group("Load and apply", 1)
    sheet.compare({"Apply Erased UNet": ours, "stock LoRA loader": stock}, ["a red circle"], 2)
    return sheet.graph.workflow()


ASKED = {
    "templates": "\n".join(f"a {{}} in {style} style" for style in STYLES),
    "synonyms": "kitty\nkitten",
    "steps": SAMPLING["steps"],
    "cfg": SAMPLING["cfg"],
}
"""How the concept is asked for when an edit is measured or attacked."""
MEASURED = ASKED | {
    "concepts": "cat",
    "pictures_per_prompt": 6,
    "look_alikes": "lion\ntiger\nleopard\ndog",
    "retain_prompts": "a violin in flat style\na bicycle in shaded style\na strawberry in glossy style\na turtle",
}


def _edit_and_judge(sheet: Sheet) -> tuple[Output, dict[str, Output]]:
    """The ready edit, and what measures or attacks it, linked by name."""
    edit = _loaded(sheet, BOOK_READY)
    (judge, _) = sheet.add("ErasureLoadConceptJudge", 1, "", {"name": JUDGE})
    erased = sheet.apply(1, sheet.model, edit)
    links = {"model": sheet.model, "erased_model": erased, "clip": sheet.clip, "vae": sheet.vae, "judge": judge}
    return edit, links


def evaluate(object_info: dict) -> dict:
    """Measure an edit, and keep the scores with it."""
    sheet = book_sheet("evaluate", object_info, EVALUATE_NOTE, (BOOK_READY, JUDGE))
    edit, links = _edit_and_judge(sheet)
    links |= {"erased_unet": edit}
    grid, chart, report, scored = sheet.add("ErasureEvaluate", 2, "", SIZE | MEASURED, links)
    sheet.report(1, report)
    sheet.save(1, scored, "erased/measured")
    sheet.group("Load, read, keep", 1)
    sheet.group("Measure", 2)
    sheet.show(3, grid, "Before and after, with verdicts", (700, 640))
    sheet.show(3, chart, "Scores", (700, 420))
    sheet.group("What it found", 3)
    return sheet.graph.workflow()


ATTACKED = ASKED | {"concept": "cat", "attempts": 8}
CHEAP_ATTACKS = "paraphrase wordings=8 tries=1\nnearest_tokens words=6 tries=1\ncompletion\nimg2img"


def red_team(object_info: dict) -> dict:
    """Try to bring the concept back: several attacks on one page, and one with its pictures."""
    sheet = book_sheet("red_team", object_info, RED_TEAM_NOTE, (BOOK_READY, JUDGE))
    _, links = _edit_and_judge(sheet)
    values = SIZE | ATTACKED | {"attacks": CHEAP_ATTACKS}
    page, summary = sheet.add("ErasureRedTeamSummary", 2, "", values, links)
    values = SIZE | ATTACKED | {"attack": "relearn", "attack.steps": 60}
    grid, report = sheet.add("ErasureRedTeam", 2, "", values, links)
    sheet.report(1, summary)
    sheet.report(1, report, "Report of one attack")
    sheet.group("Load and read", 1)
    sheet.group("Attack", 2)
    sheet.show(3, page, "What it survives", (700, 640))
    sheet.show(3, grid, "Attack and control, with verdicts", (700, 640))
    sheet.group("What it found", 3)
    return sheet.graph.workflow()
