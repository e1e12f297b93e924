"""Erase Concept: the node that makes an erased UNet."""

from __future__ import annotations

import dataclasses
from contextlib import AbstractContextManager
from typing import Any

from comfy_api.v0_0_2 import io
from torch import Tensor

from ..erasure_core.concepts import ARROW, INSIDE, ErasureRequest, check_request, parse_request
from ..erasure_core.erased_unet import ErasedUNet
from ..erasure_core.method import ErasureMethod, check_family, refusal, settings_of
from ..erasure_core.report import Report
from ..erasure_core.sae.autoencoder import ConceptSAE
from . import host
from .inputs.presets import CUSTOM, preset_note
from .inputs.sampling import check_sizes, refused, seed_input, size_inputs
from .inputs.types import CATEGORY, ConceptSAEType, ErasedUNetType
from .inputs.widgets import check_moved, chosen_method, method_input, preset_input, strength_input
from .runs.erase_progress import reporting
from .runs.progress import NodeProgress

MEMORY_SETTINGS = ("batch", "preserved", "trajectories", "expansion", "rank")
"""Settings that decide how much memory a run takes, the first to lower first; a method has some of them."""


def erase(
    model: object,
    clip: object,
    request: ErasureRequest,
    method: ErasureMethod,
    width: int,
    height: int,
    vae: Any = None,
    node_id: str | None = None,
    images: Tensor | None = None,
    concept_sae: ConceptSAE | None = None,
    progress: NodeProgress | None = None,
) -> tuple[ErasedUNet, Report]:
    """Run `method` on a clone of `model`; the model itself is left as it was, also on an error or a cancel. It is shown as
    part of `progress` if that is given, else on the node as a run of its own.

    `images` (n, height, width, 3) show the target, for methods that learn from pictures; `concept_sae` is for those that
    read a sparse autoencoder. Raises RuntimeError, saying what to lower, when memory runs out, and FloatingPointError if
    the edit is not finite.
    """
    if images is not None and vae is None:
        raise ValueError(
            "images are linked without a vae, or its checkpoint has none; link the VAE of the same checkpoint, which encodes "
            "them, or one from Load VAE"
        )
    check_family(type(method), host.family_of(model))
    if vae is not None:
        host.check_vae(model, vae)
    memory, shown = host.MemoryMeter(host.device()), progress or NodeProgress(node_id, method.work(request))
    shown.check("loading the model")

    with _memory_errors(method, width, height), host.open_session(model, clip, width, height) as denoiser:
        _check_needs(method, denoiser)
        denoiser.tell = shown
        report = reporting(denoiser, request, method, vae, shown)
        report.notes += denoiser.notes
        texts = (*request.targets, *(pair.anchor for pair in request.pairs), *request.retain)
        if weighted := host.weights_read_as_words(clip, texts):
            report.note(f"this text encoder reads no weights: the brackets and numbers in {weighted} are words to it")
        if images is not None:
            request = dataclasses.replace(request, examples=denoiser.latents_of(vae, images))
        if concept_sae is not None:
            request = dataclasses.replace(request, sae=concept_sae)
        with memory:
            erased = method.erase(denoiser, request, report)

    _check_finite(method, erased)
    if progress is None:  # else the caller has more to do
        shown.finish()
    report.costs["UNet_evaluations_in_all"] = denoiser.evaluations
    report.costs["prompts_encoded"] = denoiser.text_encoder.encoded
    report.costs["prompts_read_from_the_cache"] = denoiser.text_encoder.read
    report.costs["peak_memory_over_the_loaded_model_in_MB"] = memory.peak / 1e6
    return erased, report


def _check_needs(method: ErasureMethod, denoiser: host.ComfyDenoiser) -> None:
    for need in method.needs:
        if (why := denoiser.lacks(need)) is not None:
            raise refusal(method.name, denoiser.family, need, why)


def _check_finite(method: ErasureMethod, erased: ErasedUNet) -> None:
    broken = erased.not_finite() or (erased.key and erased.key.not_finite())
    if broken:
        raise FloatingPointError(
            f"the edit that {method.name} made holds NaN or infinity in {broken!r}; nothing was returned. Lower "
            f"learning_rate if the method has it, else load the MODEL as bfloat16 or float32"
        )


def _memory_errors(method: ErasureMethod, width: int, height: int) -> AbstractContextManager:
    """Inside, running out of memory is a RuntimeError that says what to lower, of the settings that the method has."""
    names = {field.name for field in settings_of(type(method))}
    hungry = [name for name in MEMORY_SETTINGS if name in names]
    lower = "width and height" + (f", or in the method's settings {', '.join(hungry)}" if hungry else "")
    lower += ", or set checkpointing to auto" if getattr(method, "checkpointing", "auto") == "off" else ""
    return host.memory_errors(f"erasing at {width}x{height} with {method.name}", lower)


def report_text(erased: ErasedUNet, report: Report) -> str:
    """The report of one erasure in Markdown."""
    source = erased.provenance
    pairs = "; ".join(
        f"{target} {INSIDE if target in source.inside else ARROW} {anchor or '(empty prompt)'}"
        for target, anchor in source.targets
    )
    head = [
        f"# Erased by {source.method}: {pairs}",
        "",
        f"- {source.family}, seed {source.seed}, {len(erased.tensors)} tensors, {erased.size() / 1e6:.2f} MB",
        f"- retained on request: {', '.join(source.retain) or 'nothing'}",
    ]
    return "\n".join(head) + "\n" + report.text()


class EraseConcept(io.ComfyNode):
    """Erase concepts from a loaded diffusion model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See the class."""
        return io.Schema(
            node_id="ErasureEraseConcept",
            display_name="Erase Concept",
            category=CATEGORY,
            description="Removes concepts from the model and leaves the rest as it was. The loaded model is not changed: "
            "you get a patched clone, and the edit on its own to save.",
            search_aliases=["erase", "unlearn", "remove concept", "forget", "ESD", "UCE", "AP"],
            inputs=[
                io.Model.Input("model", tooltip="The diffusion model to erase from. It stays as it is."),
                io.Clip.Input("clip", tooltip="The text encoder of the same checkpoint."),
                io.String.Input(
                    "concepts",
                    multiline=True,
                    default="",
                    placeholder="What to erase, one concept a line, e.g.\nVan Gogh\ncat => dog\nred circle < circle",
                    tooltip="What to erase, one concept a line. 'cat => dog' makes cats into dogs; without '=>' the "
                    "concept becomes what the model draws for the same sentence without it. 'red circle < circle' erases "
                    "red circles, and other circles stay.",
                ),
                method_input(),
                *size_inputs(
                    "Width of the pictures on which the erasure is learned; best the model's own size.",
                    "Height of those pictures.",
                ),
                seed_input("Same seed, same settings, same result."),
                io.String.Input(
                    "retain",
                    multiline=True,
                    optional=True,
                    tooltip="What must stay, one concept a line. Find Adversarial Concept can fill this.",
                ),
                io.Vae.Input(
                    "vae", optional=True, tooltip="Link it to see a picture of the first concept vanish while it works."
                ),
                io.Image.Input(
                    "images",
                    optional=True,
                    tooltip="Pictures of the concept, for methods that learn from pictures (such as forget_me_not). Needs vae.",
                ),
                ConceptSAEType.Input(
                    "concept_sae",
                    optional=True,
                    tooltip="From Train Concept SAE or Load Concept SAE, for the method saeuron; without it that method "
                    "trains small ones itself.",
                ),
                preset_input(),
                strength_input(
                    "How strongly the edit acts on the MODEL that comes out, as in Apply Erased UNet: 1 is the edit as it was "
                    "made, 0 none of it. ERASED_UNET is the edit as it was made, whatever stands here.",
                    optional=True,
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="MODEL", tooltip="A clone of the model with the edit applied at `strength`."
                ),
                ErasedUNetType.Output(
                    display_name="ERASED_UNET", tooltip="The edit alone, unscaled: save it, or apply it elsewhere."
                ),
                io.LossMap.Output(
                    display_name="LOSS_MAP", tooltip="The loss of every optimiser step, for Plot Loss Graph."
                ),
                io.String.Output(display_name="report", tooltip="What was done, what it cost, what was preserved."),
            ],
            hidden=[io.Hidden.unique_id],
            accept_all_inputs=True,  # a setting that a method had before is dropped in silence otherwise
        )

    @classmethod
    def validate_inputs(
        cls,
        concepts: str | None = None,
        retain: str | None = None,
        width: int | None = None,
        height: int | None = None,
        method: object = None,
    ) -> bool | str:
        """Checks before a checkpoint is loaded; an input that is linked is None. The host passes a dynamic
        combo whether it is asked for or not, and checks what is in it itself."""
        return refused(lambda: check_request(concepts, retain), lambda: check_sizes(width, height))

    @classmethod
    def execute(
        cls,
        model,
        clip,
        concepts: str,
        method: dict,
        width: int,
        height: int,
        seed: int,
        retain: str = "",
        vae=None,
        images=None,
        concept_sae: ConceptSAE | None = None,
        preset: str = CUSTOM,
        strength: float = 1.0,
        **gone: object,
    ) -> io.NodeOutput:
        """Erase, and return the patched clone, the edit, the losses and the report. `gone` are inputs that it does not have."""
        request = parse_request(concepts, retain or "")
        check_moved(method["method"], gone)
        chosen = chosen_method(method, seed)
        erased, report = erase(
            model, clip, request, chosen, width, height, vae, cls.hidden.unique_id, images, concept_sae
        )
        if preset != CUSTOM:
            report.note(preset_note(chosen, preset))
        total = [sum(values) for values in zip(*report.losses.values(), strict=False)]
        with _memory_errors(chosen, width, height):
            edited = host.patched(model, erased, strength) if strength else model.clone()
        return io.NodeOutput(edited, erased, {"loss": total or [0.0]}, report_text(erased, report))
