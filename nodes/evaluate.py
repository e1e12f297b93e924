"""Evaluate Erasure: is the concept gone, and is everything else still there?"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from functools import partial

from comfy_api.latest import io
from torch import Tensor

from ..erasure_core.concepts import parse_request
from ..erasure_core.erased_unet import ErasedUNet
from ..erasure_core.evaluation.drawing import Sampling
from ..erasure_core.evaluation.prompts import Prompt, parse_templates, prompt_groups
from ..erasure_core.evaluation.report import Evaluation
from ..erasure_core.evaluation.run import Job, Watcher, concepts_of, evaluate, summary
from ..erasure_core.evaluation.scores import Pair
from ..erasure_core.judge import ConceptJudge
from . import evaluation_files, host
from .charts import as_image
from .drawing_inputs import sampling_inputs
from .erase import CATEGORY
from .erased_unet import safe_prefix
from .evaluation_pictures import Album, chart
from .types import ConceptJudgeType, ErasedUNetType

TEMPLATES = "a {}\na picture of a {}\na photo of a {} outside"


@dataclasses.dataclass(frozen=True)
class Result:
    """A finished evaluation with its pictures."""

    evaluation: Evaluation
    album: Album


def painters(
    model: object, erased_model: object, clip: object, vae: object, sampling: Sampling, node_id: str | None = None
) -> tuple[host.ComfyPainter, host.ComfyPainter]:
    """Base and erased model, drawing alike. Raises ValueError if the two models are of different families."""
    families = [host.family_of(one) for one in (model, erased_model)]
    if families[0] != families[1]:
        raise ValueError(
            f"model is a {families[0]} model and erased_model a {families[1]} one; link the erased clone of the same model"
        )
    encoded: dict = {}
    check = partial(host.check_cancelled, node_id=node_id)
    base, erased = (host.ComfyPainter(one, clip, vae, sampling, encoded, check) for one in (model, erased_model))
    return base, erased


def run(
    model: object,
    erased_model: object,
    clip: object,
    vae: object,
    judge: ConceptJudge | None,
    concepts: Sequence[str],
    prompts: Sequence[Prompt],
    pictures_per_prompt: int,
    seed: int,
    sampling: Sampling,
    filename_prefix: str = "",
    node_id: str | None = None,
) -> Result:
    """Evaluate, and leave the base model's weights in place. On a cancel or error, what was measured so far is written to
    the output folder under `filename_prefix` and named on the node; then the exception goes on."""
    if judge is not None:
        judge = judge.labelled(concepts_of(prompts))
    base, erased = painters(model, erased_model, clip, vae, sampling, node_id)
    job = Job(base, erased, judge, tuple(concepts), tuple(prompts), pictures_per_prompt, seed, sampling)
    bar, album = host.ProgressBar(len(job.planned()), node_id=node_id), Album(job.planned())

    def on_pairs(done: int, planned: int, pairs: Sequence[Pair], before: Tensor, after: Tensor) -> None:
        album.add(pairs, before, after)
        picture = album.latest()
        bar.update_absolute(done, planned, ("JPEG", picture, 512) if picture else None)

    watcher = Watcher(on_pairs, partial(host.check_cancelled, node_id=node_id))
    started = time.monotonic()
    try:
        with host.memory_errors(f"drawing at {sampling.width}x{sampling.height}", "batch_size, width and height"):
            return Result(evaluate(job, watcher), album)
    except BaseException:
        if watcher.pairs and filename_prefix:
            partly = summary(job, watcher.pairs, time.monotonic() - started)
            path = evaluation_files.write(partly, album.grid(), chart(partly), f"{filename_prefix}_partial")
            host.send_text(f"stopped after {len(watcher.pairs)} pairs; what was measured so far: {path}", node_id)
        raise
    finally:
        host.use(model)


class EvaluateErasure(io.ComfyNode):
    """Measure an erased model beside its base."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See the class."""
        return io.Schema(
            node_id="ErasureEvaluate",
            display_name="Evaluate Erasure",
            category=CATEGORY,
            description="Draws prompts with the base and the erased model from the same noise and measures whether the "
            "concept is gone and everything else still there. Without a judge it measures drift alone.",
            search_aliases=["evaluate erasure", "ESR", "PSR", "measure", "benchmark", "drift"],
            inputs=[*_inputs(), *_optional_inputs()],
            outputs=[
                io.Image.Output(display_name="grid", tooltip="Pictures of both models, with prompts and verdicts."),
                io.Image.Output(display_name="chart", tooltip="Every score with its 95 % interval."),
                io.String.Output(display_name="report", tooltip="All figures in Markdown."),
                ErasedUNetType.Output(
                    display_name="ERASED_UNET",
                    tooltip="The linked erased_unet with these scores in its metadata, to save.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model,
        erased_model,
        clip,
        vae,
        concepts: str,
        templates: str,
        pictures_per_prompt: int,
        width: int,
        height: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        seed: int,
        batch_size: int,
        filename_prefix: str,
        judge: ConceptJudge | None = None,
        target_prompts: str = "",
        synonyms: str = "",
        look_alikes: str = "",
        retain_prompts: str = "",
        erased_unet: ErasedUNet | None = None,
    ) -> io.NodeOutput:
        """Draw, judge, write the files, and return pictures and report."""
        safe_prefix(filename_prefix)  # before the drawing: a bad name must not cost an hour
        targets = parse_request(concepts).targets
        fields = {"target_prompts": target_prompts, "synonyms": synonyms}
        fields |= {"look_alikes": look_alikes, "retain_prompts": retain_prompts}
        prompts = prompt_groups(
            targets, parse_templates(templates), **{name: text or "" for name, text in fields.items()}
        )
        sampling = Sampling(width, height, steps, cfg, sampler_name, scheduler, batch_size)
        node_id = cls.hidden.unique_id
        result = run(
            model, erased_model, clip, vae, judge, targets, prompts, pictures_per_prompt, seed, sampling,
            filename_prefix, node_id,
        )  # fmt: skip
        evaluation, grid, bars = result.evaluation, result.album.grid(), chart(result.evaluation)
        path = evaluation_files.write(evaluation, grid, bars, filename_prefix)
        text = f"{evaluation.markdown()}\nFigures and pictures: {path}\n"
        host.send_text(f"saved {path}", node_id)
        return io.NodeOutput(as_image(grid), as_image(bars), text, scored(erased_unet, evaluation))


def scored(erased: ErasedUNet | None, evaluation: Evaluation) -> ErasedUNet | None:
    """The erased UNet with the scores in its metadata."""
    if erased is None:
        return None
    provenance = dataclasses.replace(erased.provenance, scores=evaluation.scores())
    return dataclasses.replace(erased, provenance=provenance)


def _inputs() -> list[io.Input]:
    return [
        io.Model.Input("model", tooltip="The base model, unedited."),
        io.Model.Input("erased_model", tooltip="The model with the concept erased, from Erase or Apply Erased UNet."),
        io.Clip.Input("clip", tooltip="The text encoder of the same checkpoint."),
        io.Vae.Input("vae", tooltip="The autoencoder of the same checkpoint."),
        io.String.Input(
            "concepts",
            multiline=True,
            default="circle",
            tooltip="What was erased, one concept a line, as in Erase Concept.",
        ),
        io.String.Input(
            "templates",
            multiline=True,
            default=TEMPLATES,
            tooltip="Sentences for concepts, synonyms and look-alikes, one a line, with {} where the concept stands.",
        ),
        io.Int.Input(
            "pictures_per_prompt",
            default=4,
            min=1,
            max=1000,
            tooltip="Pictures of each prompt by each model. More give narrower intervals.",
        ),
        *sampling_inputs(),
        io.String.Input(
            "filename_prefix",
            default="erasure/evaluation",
            tooltip="Name of the files in the output folder (grid, chart, report and JSON), without number and ending.",
        ),
    ]


def _optional_inputs() -> list[io.Input]:
    many = {"multiline": True, "optional": True}
    return [
        ConceptJudgeType.Input(
            "judge", optional=True, tooltip="From Load Concept Judge. Without one only the drift is measured."
        ),
        io.String.Input(
            "target_prompts",
            **many,
            tooltip="More prompts for the concept, one a line, also indirect ones; 'prompt => concept' if there are several.",
        ),
        io.String.Input(
            "synonyms",
            **many,
            tooltip="Other words for the concept, one a line, put into the templates; 'word => concept' if there are several.",
        ),
        io.String.Input(
            "look_alikes",
            **many,
            tooltip="Near concepts that must stay, one a line. The list of Find Adversarial Concept fits. 'word => label' if "
            "the judge calls it otherwise.",
        ),
        io.String.Input(
            "retain_prompts",
            **many,
            tooltip="Whole prompts that must stay as they are, one a line; 'prompt => label' if the prompt does not say it.",
        ),
        ErasedUNetType.Input(
            "erased_unet",
            optional=True,
            tooltip="The edit that is measured: it comes out with the scores in its metadata.",
        ),
    ]
