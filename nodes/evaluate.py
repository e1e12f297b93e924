"""Evaluate Erasure: is the concept gone, and is everything else still there?"""

from __future__ import annotations

from typing import Any

from comfy_api.v0_0_2 import io

from ..erasure_core.concepts import check_request, parse_request
from ..erasure_core.erased_unet import ErasedUNet
from ..erasure_core.evaluation.prompts import parse_templates, prompt_groups
from . import host
from .inputs import prompt_files
from .inputs.prompt_files import TEMPLATES
from .inputs.sampling import check_sizes, refused, sampling_inputs
from .inputs.types import CATEGORY, ConceptJudgeType, ErasedUNetType
from .outputs import evaluation_files
from .outputs.file_names import safe_prefix
from .pictures.charts import as_image
from .pictures.evaluation import chart
from .runs.evaluation import run, scored


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
    def fingerprint_inputs(cls, prompt_file: str = prompt_files.NO_FILE, **_others) -> str:
        """A prompt file that was changed is read anew."""
        return prompt_files.state(prompt_file)

    @classmethod
    def validate_inputs(
        cls,
        concepts: str | None = None,
        templates: str | None = None,
        width: int | None = None,
        height: int | None = None,
    ) -> bool | str:
        """Checks before a checkpoint is loaded; an input that is linked is None."""
        return refused(
            lambda: check_request(concepts),
            lambda: templates is None or parse_templates(templates),
            lambda: check_sizes(width, height),
        )

    @classmethod
    def execute(
        cls,
        concepts: str,
        templates: str,
        pictures_per_prompt: int,
        seed: int,
        filename_prefix: str,
        target_prompts: str = "",
        synonyms: str = "",
        look_alikes: str = "",
        retain_prompts: str = "",
        erased_unet: ErasedUNet | None = None,
        prompt_file: str = prompt_files.NO_FILE,
        save_pictures: bool = False,
        **linked: Any,
    ) -> io.NodeOutput:
        """Draw, judge, write the files, and return pictures and report; `linked` is for `host.linked_models`."""
        models = host.linked_models(**linked)
        # before the drawing: a bad name must not cost an hour
        filename_prefix = safe_prefix(filename_prefix, models.sampling.width, models.sampling.height).as_posix()
        targets = parse_request(concepts).targets
        from_file = prompt_files.read(prompt_file, targets)
        prompts = prompt_groups(
            targets, parse_templates(templates), target_prompts=target_prompts or "", synonyms=synonyms or "",
            look_alikes=look_alikes or "", retain_prompts=retain_prompts or "", from_file=from_file.prompts,
        )  # fmt: skip

        node_id = cls.hidden.unique_id
        result = run(
            models,
            targets,
            prompts,
            pictures_per_prompt,
            seed,
            filename_prefix,
            node_id,
            from_file.notes,
            save_pictures,
        )

        evaluation = result.evaluation
        grid, bars = result.album.grid(evaluation), chart(evaluation)
        path = evaluation_files.write_evaluation(evaluation, grid, bars, filename_prefix)
        text = f"{evaluation.markdown()}\nFigures and pictures: {path}\n"
        if result.folder:
            text += f"Every picture as <row>_<seed>.png, and rows.csv: {result.folder}\n"
        host.send_text(f"saved {path}", node_id)
        return io.NodeOutput(as_image(grid), as_image(bars), text, scored(erased_unet, evaluation))


def _inputs() -> list[io.Input]:
    return [
        io.Model.Input("model", tooltip="The base model, unedited."),
        io.Model.Input("erased_model", tooltip="The model with the concept erased, from Erase or Apply Erased UNet."),
        io.Clip.Input("clip", tooltip="The text encoder of the same checkpoint."),
        io.Vae.Input("vae", tooltip="The autoencoder of the same checkpoint."),
        io.String.Input(
            "concepts",
            multiline=True,
            default="",
            placeholder="What was erased, one concept a line",
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
            advanced=True,
        ),
    ]


def _optional_inputs() -> list[io.Input]:
    many: dict[str, Any] = {"multiline": True, "optional": True, "advanced": True}
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
            "the judge uses another label; a word that it does not know counts for drift only.",
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
        io.Combo.Input(
            "prompt_file",
            options=prompt_files.available(),
            default=prompt_files.NO_FILE,
            optional=True,
            tooltip="In place of the templates: Imagenette's ten classes, of which concepts names the erased ones, or a CSV "
            "file in ComfyUI's input folder (I2P, UnlearnCanvas; see the help). Bad rows are left out and named.",
        ),
        io.Boolean.Input(
            "save_pictures",
            default=False,
            optional=True,
            advanced=True,
            tooltip="Also save every picture as <row>_<seed>.png, of base and erased model in folders of their own, with a "
            "table rows.csv of prompts, concepts and seeds: for judges outside ComfyUI.",
        ),
    ]
