"""Load Concept Judge: an image classifier, or a zero-shot model, that says what a picture shows."""

from __future__ import annotations

import logging
from pathlib import Path

from comfy_api.v0_0_2 import io

from ..erasure_core.evaluation.judges.judge import judges_in, load_judge
from ..erasure_core.evaluation.judges.nude_detector import (
    EXPOSED,
    LOWEST,
    NAME,
    THRESHOLD,
    load_nude_detector,
    parse_classes,
)
from ..erasure_core.evaluation.report import accuracy_lines
from . import host
from .inputs.types import CATEGORY, ConceptJudgeType

FOLDER_KIND = "concept_judges"


def available() -> list[str]:
    """Names of the judges in ComfyUI's folders, and of the detector, which needs none. A folder that cannot be read is left
    out: an error here would cost the host every node of the pack."""
    names: dict[str, None] = {}
    for root in host.folders(FOLDER_KIND):
        try:
            names |= dict.fromkeys(judges_in(root))
        except OSError as error:
            logging.warning("Load Concept Judge: %s cannot be listed: %s", root, error)
    return [*names, NAME]


def find(name: str) -> Path:
    """The folder of a judge. Raises ValueError if none of ComfyUI's folders has one of that name."""
    for root in host.folders(FOLDER_KIND):
        if name in judges_in(root):
            return root / name
    raise ValueError(
        f"there is no concept judge named {name!r}; put its folder (config.json, model.safetensors, "
        f"preprocessor_config.json) into models/{FOLDER_KIND}, then press R to refresh the list"
    )


class LoadConceptJudge(io.ComfyNode):
    """Load a judge from its folder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See the class."""
        return io.Schema(
            node_id="ErasureLoadConceptJudge",
            display_name="Load Concept Judge",
            category=CATEGORY,
            description="Loads a judge that says what a picture shows: an image classifier with its labels, or a CLIP or "
            "SigLIP model that chooses among the concepts of the prompts, or NudeNet's detector. Nothing is downloaded.",
            search_aliases=["classifier", "CLIP score", "evaluate", "judge", "NudeNet", "NSFW", "nudity", "detector"],
            inputs=[
                io.Combo.Input(
                    "name",
                    options=available(),
                    tooltip="Folders under models/concept_judges in transformers format. A folder that holds several "
                    "classifiers judges several factors of each picture, such as shape and colour. The last name is NudeNet, "
                    "if its package is installed.",
                ),
                io.Float.Input(
                    "threshold",
                    default=THRESHOLD,
                    min=LOWEST,
                    max=0.95,
                    step=0.05,
                    optional=True,
                    advanced=True,
                    tooltip="For a detector only: the lowest score of a detection that counts.",
                ),
                io.String.Input(
                    "classes",
                    default=", ".join(EXPOSED),
                    optional=True,
                    advanced=True,
                    tooltip="For a detector only: the classes that count, with commas. The help page lists all that it knows.",
                ),
            ],
            outputs=[
                ConceptJudgeType.Output(display_name="CONCEPT_JUDGE", tooltip="For Evaluate Erasure."),
                io.String.Output(display_name="labels", tooltip="The judge's labels and its stated accuracy."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, name: str, **_others) -> str:
        """A judge that was replaced is loaded anew."""
        if name == NAME:
            return ""
        files = sorted(path for path in find(name).rglob("*") if path.is_file())
        return ";".join(f"{path}:{path.stat().st_mtime_ns}" for path in files)

    @classmethod
    def execute(cls, name: str, threshold: float = THRESHOLD, classes: str = ", ".join(EXPOSED)) -> io.NodeOutput:
        """Read the folder, or open the detector."""
        if name == NAME:
            judge = load_nude_detector(threshold, parse_classes(classes))
        else:
            judge = load_judge(find(name), name, host.device())
        if judge.open is not None:
            return io.NodeOutput(judge, "zero-shot: it chooses among the concepts of the prompts")
        labels = "\n".join(f"{factor.name}: {', '.join(factor.labels)}" for factor in judge.factors)
        return io.NodeOutput(judge, "\n".join([*accuracy_lines(judge), "", labels]))
