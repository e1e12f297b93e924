"""One workflow for each way of erasing that is not AP's: closed form, gated, features, side network, key, LoRA."""

from __future__ import annotations

from .graph import Output
from .sheet import SIZE, SMALL, Sheet

HIDDEN = "erased/hidden"
_SHAPES = ("circle", "oval", "ring", "square", "diamond", "triangle", "star", "cross")
SAE_PROMPTS = "\n".join(f"a {colour} {shape}" for colour in ("red", "green", "blue", "yellow") for shape in _SHAPES)
PAIR = ("a red circle", "a blue square")
"""A prompt of the erased concept, and one that must stay."""

CLOSED_FORM_NOTE = """\
*circle* and *star* are erased in one go by two methods that solve for the new weights instead of training them. No picture \
is drawn and no gradient taken: nearly all of the time the text encoder reads sentences. The reports say how long it took.
**uce** reads the text of *circle* as that of *triangle*, and *star* as *cross*. **rece** then looks for text that still \
says the concepts, and erases that as well. An anchor (`=> triangle`) helps: without it *a red thing* may be a circle again."""
GATED_NOTE = """\
**spm** erases *circle* by thin adapters that open only as far as the prompt speaks of circles.
**With the gate** a prompt without circles gives the very same picture as the loaded model, bit for bit: compare \
*before* and *gated* for the blue square.
**Without it** (`gate` off) the adapters are an ordinary LoRA, which acts on every prompt: the squares are nearly the same, \
but no longer bit for bit.
The gated edit is saved to `output/erased_unets/erased/`; Load Erased UNet and Apply Erased UNet use it."""
SAE_NOTE = """\
**Train Concept SAE** learns a sparse autoencoder of one block: it splits what the block puts out into many features, of \
which few fire at once. **Erase Concept** with *saeuron* finds those that fire for *circle* and turns them round \
while the model samples. The weights stay as they are.
On this small model one block is too little: circles are garbled rather than gone, and squares, which should stay, change \
colour in part. Without a linked SAE, Erase Concept trains one for every block for that erasure alone, which does better.
An SAE is trained once for a model: write a `filename_prefix` to keep it, and use Load Concept SAE next time."""
SIDE_NOTE = """\
**dumo** leaves the UNet as it is. Beside it runs a second encoder, which corrects the UNet's skip connections for prompts \
that speak of *circle*.
For any other prompt it is not even run: the blue squares are the very same pictures before and after.
The edit is saved to `output/erased_unets/erased/`; Load Erased UNet and Apply Erased UNet use it."""
HIDE_NOTE = """\
**kpop** hides *circle* in the weights and learns a key that brings it back.
**Save Erased UNet** writes two files: the edit, which is an ordinary LoRA, to `output/loras/erased/`, and the key, \
a smaller file, to `output/erased_unets/erased/`. Hand out the first and keep the second.
The workflow "open with the key" loads both."""
OPEN_NOTE = """\
**Run the workflow "hide behind a key" first**: it saves the two files that are loaded here; press R if the lists do \
not show them yet.
The edit goes on the model as usual, and circles are gone. The key goes on top of it, by the same node, and brings them \
back. Its strength turns it from closed (0) to open (1).
On this small model the key is a rough one: most circles are back, and other shapes change under it too."""
MODULAR_NOTE = """\
Does *circle* come back when somebody trains a LoRA afterwards? Here the training pictures do show circles: the loaded \
model's own. ComfyUI's **Train LoRA** learns from them twice.
**(a)** on top of the erased model, where it may learn back what was erased; a warning on that node says so.
**(b)** on the loaded model, with the erased UNet put beside the LoRA only for drawing.
Compare the rows. The paper (arXiv 2412.00357) advises (b): \
keep the erased UNet as a file of its own, and never train on top of it."""


def closed_form_in_seconds(object_info: dict) -> dict:
    """Two concepts at once, solved by two methods."""
    sheet = Sheet("closed_form_in_seconds", object_info, CLOSED_FORM_NOTE).checkpoint()
    models = {"before": sheet.model}
    for column, method in enumerate(("uce", "rece"), 1):
        concepts, title = "circle => triangle\nstar => cross", f"Erase Concept by {method}"
        models[method], _, _, report = sheet.erase(column, title, concepts=concepts, method=method)
        sheet.report(column, report, f"Report of {method}")
    sheet.group("Erase by two methods", 1, 2)
    sheet.compare(models, (*PAIR, "a green star"), 3)
    return sheet.graph.workflow()


def gated_by_the_prompt(object_info: dict) -> dict:
    """The same adapters with a gate and without."""
    sheet = Sheet("gated_by_the_prompt", object_info, GATED_NOTE).checkpoint()
    gated, edit, *_ = sheet.erase(1, "Erase Concept, gated", method="spm")
    values = {"method": "spm", "method.gate": False}
    ungated, *_ = sheet.erase(2, "Erase Concept, without the gate", **values)
    sheet.save(1, edit, "erased/gated")
    sheet.group("Erase with and without a gate", 1, 2)
    sheet.compare({"before": sheet.model, "gated": gated, "ungated": ungated}, PAIR, 3)
    return sheet.graph.workflow()


def sae_features(object_info: dict) -> dict:
    """Train an SAE, erase by its features."""
    sheet = Sheet("sae_features", object_info, SAE_NOTE).checkpoint()
    values = SIZE | {"prompts": SAE_PROMPTS, "expansion": 4, "steps": 300, "filename_prefix": ""}
    links = {"model": sheet.model, "clip": sheet.clip}
    sae, quality = sheet.add("ErasureTrainConceptSAE", 1, "", values, links)
    sheet.report(1, quality, "How well it reads the block")
    sheet.group("Learn the features", 1)
    # one block has few latents of the concept's own, so they are turned further
    values = {"method": "saeuron", "method.gamma": -8.0}
    erased, _, _, report = sheet.erase(2, "", {"concept_sae": sae}, **values)
    sheet.report(2, report)
    sheet.group("Erase", 2)
    sheet.compare({"before": sheet.model, "after": erased}, PAIR, 3)
    return sheet.graph.workflow()


def _erase_save_compare(sheet: Sheet, method: str, prefix: str, after: str) -> dict:
    """Erase by a method, keep the edit, look before and after."""
    sheet.checkpoint()
    erased, edit, _, report = sheet.erase(1, method=method)
    sheet.group("Erase", 1)
    sheet.save(2, edit, prefix)
    sheet.report(2, report)
    sheet.group("Keep and read", 2)
    sheet.compare({"before": sheet.model, after: erased}, PAIR, 3)
    return sheet.graph.workflow()


def side_network(object_info: dict) -> dict:
    """A second encoder beside the untouched UNet."""
    sheet = Sheet("side_network", object_info, SIDE_NOTE)
    return _erase_save_compare(sheet, "dumo", "erased/side_network", "after")


def hide_behind_a_key(object_info: dict) -> dict:
    """Hide a concept; save the edit and its key."""
    return _erase_save_compare(Sheet("hide_behind_a_key", object_info, HIDE_NOTE), "kpop", HIDDEN, "hidden")


def open_with_the_key(object_info: dict) -> dict:
    """The two files of the workflow before: the edit, and the key on top of it."""
    sheet = Sheet("open_with_the_key", object_info, OPEN_NOTE).checkpoint()
    models = {}
    model = sheet.model
    for what, suffix in {"hidden": "", "with the key": "_key"}.items():
        name = {"name": f"{HIDDEN}{suffix}_00001_.safetensors"}
        (edit,) = sheet.add("ErasureLoadErasedUNet", 1, f"Load: {what}", name)
        models[what] = model = sheet.apply(1, model, edit, f"Apply: {what}")
    sheet.group("Load and apply", 1)
    sheet.compare(models, PAIR, 2)
    return sheet.graph.workflow()


TRAINING = {"batch_size": 4, "steps": 60, "learning_rate": 0.001, "lora_dtype": "fp32", "gradient_checkpointing": False}


def _training_pictures(sheet: Sheet) -> tuple[Output, Output]:
    """The loaded model's picture of the concept, as latents, and the prompt's conditioning."""
    links = {"clip": sheet.clip}
    (circle,) = sheet.add(
        "CLIPTextEncode", 1, "Prompt of the training pictures", {"text": "a red circle"}, links, (0, 110)
    )
    (nothing,) = sheet.add("CLIPTextEncode", 1, "Negative prompt", {"text": ""}, links, (0, 110))
    (latent,) = sheet.add("EmptyLatentImage", 1, "", SIZE | {"batch_size": SMALL.pictures})
    links = {"model": sheet.model, "positive": circle, "negative": nothing, "latent_image": latent}
    (examples,) = sheet.add("KSampler", 1, "KSampler, training pictures", SMALL.settings | {"seed": 1}, links)
    sheet.group("Training pictures", 1)
    return examples, circle


def modular_lora(object_info: dict) -> dict:
    """A task LoRA on top of an erasure, and beside it."""
    sheet = Sheet("modular_lora", object_info, MODULAR_NOTE).checkpoint()
    examples, circle = _training_pictures(sheet)
    erased, edit, *_ = sheet.erase(2, method="modular_lora")
    sheet.group("Erase", 2)
    lora = []
    for route, model in {"(a) on the erased": erased, "(b) on the loaded": sheet.model}.items():
        links = {"model": model, "latents": examples, "positive": circle}
        lora.append(sheet.add("TrainLoraNode", 3, f"Train LoRA {route} model", TRAINING, links)[0])
    links = {"model": erased, "lora": lora[0]}
    (on_top,) = sheet.add("LoraModelLoader", 4, "(a) the LoRA on top of the erased model", None, links)
    links = {"model": sheet.model, "lora": lora[1]}
    (task,) = sheet.add("LoraModelLoader", 4, "(b) the LoRA on the loaded model", None, links)
    beside = sheet.apply(4, task, edit, "(b) the erased UNet beside it")
    sheet.group("Two ways to train a LoRA", 3, 4)
    shown = {"before": sheet.model, "erased": erased, "(a) trained on top": on_top, "(b) trained beside": beside}
    sheet.compare(shown, ["a red circle"], 5)
    return sheet.graph.workflow()
