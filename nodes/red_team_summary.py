"""Red-Team Summary: several attacks, one page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from comfy_api.v0_0_2 import io
from PIL import Image

from ..erasure_core.evaluation.report import accuracy_lines, judge_figures
from ..erasure_core.red_team.attack_suite import Survey, every_attack, parse_attacks, run_all
from . import host
from .inputs.red_team import inputs_around
from .inputs.sampling import check_sizes, refused
from .inputs.types import CATEGORY
from .outputs import evaluation_files
from .outputs.file_names import safe_prefix
from .pictures.charts import as_image
from .pictures.red_team import page
from .runs.progress import NodeProgress
from .runs.red_team import attacked_model_of, check_attacked, figures_of
from .runs.red_team_progress import attacking, together, work_of


class RedTeamSummary(io.ComfyNode):
    """Run a list of attacks and draw one page."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See the class."""
        chosen = io.String.Input(
            "attacks",
            multiline=True,
            default="\n".join(every_attack()),
            tooltip="The attacks to run, one a line, with settings other than the defaults behind the name: p4d steps=50. "
            "Delete what you do not need: the trained ones take longest.",
        )
        return io.Schema(
            node_id="ErasureRedTeamSummary",
            display_name="Red-Team Summary",
            category=CATEGORY,
            description="Runs a list of attacks on an erased concept and draws one page that shows which attacks the "
            "edit survives. Both models stay as they are.",
            search_aliases=["red team", "robustness", "attacks", "summary"],
            inputs=inputs_around(chosen, "erasure/red_team_summary"),
            outputs=[
                io.Image.Output(display_name="page", tooltip="Success rates and pictures of all attacks."),
                io.String.Output(display_name="report", tooltip="One row an attack, with intervals, control and cost."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(
        cls,
        concept: str | None = None,
        attacks: str | None = None,
        templates: str | None = None,
        width: int | None = None,
        height: int | None = None,
    ) -> bool | str:
        """Checks before a checkpoint is loaded; an input that is linked is None."""
        return refused(
            lambda: check_attacked(concept, templates),
            lambda: attacks is None or parse_attacks(attacks, 0),
            lambda: check_sizes(width, height),
        )

    @classmethod
    def execute(
        cls,
        concept: str,
        attacks: str,
        templates: str,
        attempts: int,
        seed: int,
        filename_prefix: str,
        synonyms: str = "",
        other_labels: str = "",
        **linked: Any,
    ) -> io.NodeOutput:
        """Attack, write the files, and return page and report; `linked` is for `host.linked_models`."""
        models = host.linked_models(**linked)
        # before the attacks: a bad name must not cost an hour
        filename_prefix = safe_prefix(filename_prefix, models.sampling.width, models.sampling.height).as_posix()
        chosen, node_id = parse_attacks(attacks, seed), cls.hidden.unique_id
        plans = work_of(chosen, attempts, models.sampling.steps)
        progress = NodeProgress(node_id, together(plans))
        attacked = attacked_model_of(models, concept, templates, synonyms, other_labels, progress.check)
        survey, names = Survey(len(chosen)), ", ".join(attack.name for attack in chosen)
        try:
            with attacking(models.model, names, progress, survey.done, plans) as report:
                run_all(attacked, chosen, attempts, survey, report)
        except BaseException:  # a cancel too: the attacks that are over are not lost
            if survey.findings:
                _, _, path = written(survey, attacked, f"{filename_prefix}_partial")
                host.send_text(f"stopped after {survey.done()} attacks; what was found so far: {path}", node_id)
            raise
        text, sheet, path = written(survey, attacked, filename_prefix)
        host.send_text(f"saved {path}", node_id)
        return io.NodeOutput(as_image(sheet), text)


def written(survey: Survey, attacked: host.ComfyAttackedModel, prefix: str) -> tuple[str, Image.Image, Path]:
    """Write page, report, figures and the embeddings that were found; the report with the paths, the page, and the path of
    the figures."""
    judge_lines = accuracy_lines(attacked.judge)
    sheet, text = page(survey, judge_lines), survey.markdown(judge_lines)
    each: list[dict[str, Any]] = []
    for finding in survey.findings:
        figures, embedding_line = figures_of(finding, attacked.linked.clip, prefix)
        each.append(figures)
        text += embedding_line
    whole = survey.as_json() | judge_figures(attacked.judge) | {"attacks": each}
    path = evaluation_files.write(prefix, text, whole, {"page": sheet})
    return f"{text}\nFigures and page: {path}\n", sheet, path
