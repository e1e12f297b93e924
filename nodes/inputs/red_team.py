"""The common inputs of the nodes that attack."""

from __future__ import annotations

from typing import Any

from comfy_api.v0_0_2 import io

from .prompt_files import TEMPLATES
from .sampling import sampling_inputs
from .types import ConceptJudgeType


def inputs_around(attack: io.Input, prefix: str) -> list[io.Input]:
    """The inputs of a node that attacks, with the one that chooses the attack."""
    many: dict[str, Any] = {"multiline": True, "optional": True, "advanced": True}
    return [
        io.Model.Input("model", tooltip="The base model, unedited: some attacks start from its pictures."),
        io.Model.Input("erased_model", tooltip="The model with the concept erased."),
        io.Clip.Input("clip", tooltip="The text encoder of the same checkpoint."),
        io.Vae.Input("vae", tooltip="The autoencoder of the same checkpoint."),
        ConceptJudgeType.Input("judge", tooltip="From Load Concept Judge; it decides whether the concept is back."),
        io.String.Input(
            "concept",
            default="",
            placeholder="The one concept to bring back",
            tooltip="The one concept to bring back, as the judge calls it.",
        ),
        attack,
        io.String.Input(
            "templates",
            multiline=True,
            default=TEMPLATES,
            tooltip="Sentences for the concept, one a line, with {} where it stands.",
        ),
        io.Int.Input(
            "attempts",
            default=24,
            min=1,
            max=10000,
            tooltip="Attempts of the attack, and as many of its control. More give narrower intervals.",
        ),
        *sampling_inputs(),
        io.String.Input(
            "filename_prefix",
            default=prefix,
            tooltip="Name of the files in the output folder (grid, strongest picture, report, JSON), without number.",
            advanced=True,
        ),
        io.String.Input(
            "synonyms",
            **many,
            tooltip="Other words for the concept, one a line: paraphrase tries them, relearn never treats them as other "
            "concepts.",
        ),
        io.String.Input(
            "other_labels",
            **many,
            tooltip="Other labels for a zero-shot judge, one a line; a classifier needs none. relearn draws these, or the "
            "classifier's other labels, as other concepts.",
        ),
    ]
