"""Load Concept Judge: an image classifier, or a zero-shot model, that says what a picture shows."""

from __future__ import annotations

from pathlib import Path

from comfy_api.latest import io

from ..erasure_core.evaluation.report import accuracy_lines
from ..erasure_core.judge import judges_in, load_judge
from . import host
from .erase import CATEGORY
from .types import ConceptJudgeType

FOLDER_KIND = "concept_judges"


def available() -> list[str]:
    """Names of the judges in ComfyUI's folders."""
    return list(dict.fromkeys(name for root in host.folders(FOLDER_KIND) for name in judges_in(root)))


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
            "SigLIP model that chooses among the concepts of the prompts. Nothing is downloaded.",
            search_aliases=["classifier", "CLIP score", "evaluate", "judge"],
            inputs=[
                io.Combo.Input(
                    "name",
                    options=available(),
                    tooltip="Folders under models/concept_judges in transformers format. A folder that holds several "
                    "classifiers judges several factors of each picture, such as shape and colour.",
                )
            ],
            outputs=[
                ConceptJudgeType.Output(display_name="CONCEPT_JUDGE", tooltip="For Evaluate Erasure."),
                io.String.Output(
                    display_name="labels", tooltip="What the judge knows, and how accurate it says it is."
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, name: str) -> str:
        """A judge that was replaced is loaded anew."""
        files = sorted(path for path in find(name).rglob("*") if path.is_file())
        return ";".join(f"{path}:{path.stat().st_mtime_ns}" for path in files)

    @classmethod
    def execute(cls, name: str) -> io.NodeOutput:
        """Read the folder."""
        judge = load_judge(find(name), name, host.device())
        if judge.open is not None:
            return io.NodeOutput(judge, "zero-shot: it chooses among the concepts of the prompts")
        labels = "\n".join(f"{factor.name}: {', '.join(factor.labels)}" for factor in judge.factors)
        return io.NodeOutput(judge, "\n".join([*accuracy_lines(judge), "", labels]))
