"""Write the workflows as the browser saves them, with the defaults that the nodes have now.

    python -m devtools.make_workflows

A workflow holds widget values by position, so that a setting added to a method moves those behind it. Written from the
server's own `object_info` the files cannot fall behind; run this after a change of a node's inputs or defaults.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from . import comfyui, server
from .graph import Output, dumps
from .sheets import SAMPLING, SIZE, Sheet

FOLDER = comfyui.PACK / "workflows"
SAVED = "erased/concept_00001_.safetensors"

ERASE_NOTE = """\
**Erase Concept** removes *circle* from the loaded model by Adversarial Preservation and hands out a patched clone; \
the loaded model stays as it was.
The pictures compare both on the same noise: circles go, blue squares stay.
The edit is saved to `output/loras/erased/`, where the other workflows and the stock LoRA loader find it."""
ADVERSARIAL_NOTE = """\
**Find Adversarial Concept** makes a short trial erasure of *circle*, measures which other concepts it hurts most, and \
draws them as a chart.
Its list is linked into **Erase Concept**'s `retain`, so that these very concepts are kept.
The pictures show a look-alike on the same noise, before and after."""
STRENGTHS_NOTE = """\
**Run erase_and_compare first**: it saves the file that is loaded here; press R if the list does not show it yet.
The same edit is applied at strength 0.5, 1.0 and 1.5, and the same noise is sampled with each. \
Lower erases less, higher erases harder and hurts more."""
LORA_NOTE = """\
**Run erase_and_compare first**: it saves the file that both branches load; press R if the list does not show it yet.
An erased UNet that only changes weights is an ordinary LoRA file: the stock **Load LoRA** node and our \
**Apply Erased UNet** give the same pictures, so nobody needs this pack to use what you made."""

MODULAR_NOTE = """\
Does *circle* come back when somebody trains a LoRA afterwards? Here the training pictures do show circles: the loaded \
model's own. ComfyUI's **Train LoRA** learns from them twice.
**(a)** on top of the erased model, where it may learn back what was erased; a warning on that node says so.
**(b)** on the loaded model, with the erased UNet put beside the LoRA only for drawing.
Compare the rows. The paper (arXiv 2412.00357) advises (b): \
keep the erased UNet as a file of its own, and never train on top of it."""


def erase_and_compare(object_info: dict) -> dict:
    """Erase, look before and after, save."""
    sheet = Sheet("erase_and_compare", object_info, ERASE_NOTE, 210)
    links = {"model": sheet.model, "clip": sheet.clip, "vae": sheet.vae}
    erased, edit, losses, report = sheet.add(
        "ErasureEraseConcept", (400, 0), (340, 850), "", SIZE | {"concepts": "circle"}, links
    )
    circle = sheet.text("Prompt: the erased concept", "a red circle", (800, 0))
    square = sheet.text("Prompt: what must stay", "a blue square", (800, 160))
    nothing = sheet.text("Negative prompt", "", (800, 320))
    shown = [("a red circle", circle), ("a blue square", square)]
    sheet.comparisons([("before", sheet.model), ("after", erased)], shown, nothing, 1200, "erase_and_compare")
    values = {"filename_prefix": "erased/concept"}
    sheet.add("ErasureSaveErasedUNet", (800, 480), (340, 140), "", values, {"erased_unet": edit})
    sheet.add("PreviewAny", (800, 670), (340, 300), "Report", None, {"source": report})
    sheet.add("LossGraphNode", (800, 1020), (340, 280), "", None, {"loss": losses})
    return sheet.graph.workflow()


def find_adversarial_and_retain(object_info: dict) -> dict:
    """Find what the erasure would hurt, and keep that."""
    sheet = Sheet("find_adversarial_and_retain", object_info, ADVERSARIAL_NOTE, 210)
    links = {"model": sheet.model, "clip": sheet.clip}
    values = SIZE | {"concepts": "circle", "vocabulary": "shapes_and_colours", "top_k": 8}
    found, chart, ranking = sheet.add("ErasureFindAdversarialConcept", (400, 0), (440, 400), "", values, links)
    sheet.add("PreviewImage", (400, 450), (440, 320), "What erasing circle hurts most", None, {"images": chart})
    sheet.add("PreviewAny", (400, 820), (440, 400), "Ranking", None, {"source": ranking})
    erased, *_ = sheet.add(
        "ErasureEraseConcept", (900, 0), (340, 850), "Erase Concept, retaining them", SIZE | {"concepts": "circle"},
        links | {"vae": sheet.vae, "retain": found},
    )  # fmt: skip
    circle = sheet.text("Prompt: the erased concept", "a red circle", (1300, 0))
    ring = sheet.text("Prompt: a look-alike", "a red ring", (1300, 160))
    nothing = sheet.text("Negative prompt", "", (1300, 320))
    shown = [("a red circle", circle), ("a red ring", ring)]
    sheet.comparisons([("before", sheet.model), ("after", erased)], shown, nothing, 1700)
    return sheet.graph.workflow()


def _loaded(sheet: Sheet) -> tuple[Output, Output, Output]:
    """The saved edit, a prompt for what it erases, and the negative prompt."""
    (edit,) = sheet.add("ErasureLoadErasedUNet", (400, 0), (340, 58), "", {"name": SAVED})
    circle = sheet.text("Prompt: the erased concept", "a red circle", (400, 110))
    return edit, circle, sheet.text("Negative prompt", "", (400, 270))


def apply_at_three_strengths(object_info: dict) -> dict:
    """One file at three strengths."""
    sheet = Sheet("apply_at_three_strengths", object_info, STRENGTHS_NOTE, 210)
    edit, circle, nothing = _loaded(sheet)
    for row, strength in enumerate((0.5, 1.0, 1.5)):
        links = {"model": sheet.model, "erased_unet": edit}
        (model,) = sheet.add(
            "ErasureApplyErasedUNet", (800, row * 320), (300, 78), f"Apply at {strength}", {"strength": strength}, links
        )
        sheet.pictures(f"strength {strength}", model, circle, nothing, (1160, row * 320))
    return sheet.graph.workflow()


def stock_lora_loader(object_info: dict) -> dict:
    """The same file by ComfyUI's own node and by ours."""
    sheet = Sheet("stock_lora_loader", object_info, LORA_NOTE, 210)
    edit, circle, nothing = _loaded(sheet)
    links = {"model": sheet.model, "erased_unet": edit}
    (ours,) = sheet.add("ErasureApplyErasedUNet", (800, 0), (300, 78), "", {"strength": 1.0}, links)
    values = {"lora_name": SAVED, "strength_model": 1.0}
    (stock,) = sheet.add(
        "LoraLoaderModelOnly", (800, 320), (300, 82), "Load LoRA (stock)", values, {"model": sheet.model}
    )
    sheet.pictures("Apply Erased UNet", ours, circle, nothing, (1160, 0))
    sheet.pictures("stock LoRA loader", stock, circle, nothing, (1160, 320))
    return sheet.graph.workflow()


TRAINING = {"batch_size": 4, "steps": 60, "learning_rate": 0.001, "lora_dtype": "fp32", "gradient_checkpointing": False}


def modular_lora(object_info: dict) -> dict:
    """A task LoRA on top of an erasure, and beside it."""
    sheet = Sheet("modular_lora", object_info, MODULAR_NOTE, 250)
    circle = sheet.text("Prompt: the erased concept", "a red circle", (400, 0))
    nothing = sheet.text("Negative prompt", "", (400, 160))
    links = {"model": sheet.model, "positive": circle, "negative": nothing, "latent_image": sheet.latent}
    (examples,) = sheet.add(
        "KSampler", (400, 320), (340, 262), "KSampler, training pictures", SAMPLING | {"seed": 1}, links
    )
    values = SIZE | {"concepts": "circle", "method": "modular_lora"}
    erased, edit, *_ = sheet.add(
        "ErasureEraseConcept", (400, 640), (340, 620), "", values, {"model": sheet.model, "clip": sheet.clip}
    )
    lora = {}
    for row, (route, model) in enumerate(
        (("(a) on the erased model", erased), ("(b) on the loaded model", sheet.model))
    ):
        links = {"model": model, "latents": examples, "positive": circle}
        lora[row], *_ = sheet.add("TrainLoraNode", (800, row * 640), (340, 580), f"Train LoRA {route}", TRAINING, links)
    links = {"model": erased, "lora": lora[0]}
    (on_top,) = sheet.add(
        "LoraModelLoader", (1200, 0), (300, 110), "(a) the LoRA on top of the erased model", None, links
    )
    links = {"model": sheet.model, "lora": lora[1]}
    (task,) = sheet.add("LoraModelLoader", (1200, 640), (300, 110), "(b) the LoRA on the loaded model", None, links)
    links = {"model": task, "erased_unet": edit}
    (beside,) = sheet.add(
        "ErasureApplyErasedUNet", (1200, 800), (300, 78), "(b) the erased UNet beside it", None, links
    )
    shown = (
        ("before", sheet.model),
        ("erased", erased),
        ("(a) trained on top", on_top),
        ("(b) trained beside", beside),
    )
    for row, (title, model) in enumerate(shown):
        sheet.pictures(title, model, circle, nothing, (1560, row * 320))
    return sheet.graph.workflow()


MAKERS: tuple[Callable[[dict], dict], ...] = (
    erase_and_compare,
    find_adversarial_and_retain,
    apply_at_three_strengths,
    stock_lora_loader,
    modular_lora,
)


def texts(object_info: dict) -> dict[str, str]:
    """What each file in `workflows/` should contain, by its name."""
    return {f"{make.__name__}.json": dumps(make(object_info)) for make in MAKERS}


def main() -> int:
    """Ask a server what the nodes are, and write the files."""
    with (
        tempfile.TemporaryDirectory(prefix="concept-erasure-") as base,
        server.running_server(comfyui.ensure(), Path(base)) as running,
    ):
        written = texts(server.object_info(running))
    FOLDER.mkdir(exist_ok=True)
    for name, text in written.items():
        (FOLDER / name).write_text(text, encoding="utf-8")
        print(FOLDER / name)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
