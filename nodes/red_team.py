"""Red-Team Concept: can an erased concept be brought back?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from comfy_api.v0_0_2 import io
from PIL import Image

from ..erasure_core.evaluation.report import accuracy_lines, judge_figures
from ..erasure_core.red_team.run import Finding, markdown
from . import host
from .inputs.red_team import inputs_around
from .inputs.sampling import check_sizes, refused
from .inputs.types import CATEGORY
from .inputs.widgets import attack_input, chosen_attack
from .outputs import evaluation_files
from .outputs.file_names import safe_prefix
from .pictures.charts import as_image, as_picture, captioned, grid
from .pictures.red_team import shown
from .runs.progress import NodeProgress
from .runs.red_team import attacked_model_of, check_attacked, figures_of, run
from .runs.red_team_progress import work_of


def pictures(finding: Finding, judge_lines: Sequence[str]) -> Image.Image:
    """The pictures of base, no attack, attack and control, with the judge's verdicts and its accuracy."""
    shots = {
        "base model, plain prompts": finding.plain.base,
        "erased model, plain prompts": finding.plain.erased,
        f"attack: {finding.attack.label()}": finding.outcome.attack,
        f"control: {finding.outcome.control_is}": finding.outcome.control,
    }
    return captioned(grid([(title, shown(shot)) for title, shot in shots.items()], ("",)), judge_lines)


class RedTeamConcept(io.ComfyNode):
    """Attack an erasure."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See the class."""
        return io.Schema(
            node_id="ErasureRedTeam",
            display_name="Red-Team Concept",
            category=CATEGORY,
            description="Tries to bring an erased concept back and reports how often it succeeds, compared with no attack "
            "and a control. Both models stay as they are.",
            search_aliases=["red team", "attack", "robustness", "textual inversion", "jailbreak"],
            inputs=inputs_around(attack_input(), "erasure/red_team"),
            outputs=[
                io.Image.Output(display_name="grid", tooltip="Pictures of base, no attack, attack and control."),
                io.String.Output(
                    display_name="report", tooltip="Success rates with intervals, what was found, and its cost."
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(
        cls,
        concept: str | None = None,
        templates: str | None = None,
        width: int | None = None,
        height: int | None = None,
        attack: object = None,
    ) -> bool | str:
        """Checks before a checkpoint is loaded; an input that is linked is None. The host passes a dynamic
        combo whether it is asked for or not, and checks what is in it itself."""
        return refused(lambda: check_attacked(concept, templates), lambda: check_sizes(width, height))

    @classmethod
    def execute(
        cls,
        concept: str,
        attack: dict,
        templates: str,
        attempts: int,
        seed: int,
        filename_prefix: str,
        synonyms: str = "",
        other_labels: str = "",
        **linked: Any,
    ) -> io.NodeOutput:
        """Attack, write the files, and return pictures and report; `linked` is for `host.linked_models`."""
        models = host.linked_models(**linked)
        # before the attack: a bad name must not cost an hour
        filename_prefix = safe_prefix(filename_prefix, models.sampling.width, models.sampling.height).as_posix()
        chosen, node_id = chosen_attack(attack, seed), cls.hidden.unique_id
        progress = NodeProgress(node_id, *work_of([chosen], attempts, models.sampling.steps))
        attacked = attacked_model_of(models, concept, templates, synonyms, other_labels, progress.check)
        finding = run(attacked, chosen, attempts, progress)
        text, sheet = written(finding, attacked, filename_prefix)
        host.send_text(text.splitlines()[-1], node_id)
        return io.NodeOutput(as_image(sheet), text)


def written(finding: Finding, attacked: host.ComfyAttackedModel, prefix: str) -> tuple[str, Image.Image]:
    """Write the report, the grid, the strongest picture, the figures, and an embedding if one was found; the report with
    the paths in its last lines, and the grid."""
    judge_lines = accuracy_lines(attacked.judge)
    sheet = pictures(finding, judge_lines)
    figures, embedding_line = figures_of(finding, attacked.linked.clip, prefix)
    text = markdown([finding], judge_lines) + embedding_line
    strongest = as_picture(finding.outcome.attack.strongest()[0])
    figures |= judge_figures(attacked.judge)
    path = evaluation_files.write(prefix, text, figures, {"grid": sheet, "strongest": strongest})
    return f"{text}\nFigures and pictures: {path}\n", sheet
