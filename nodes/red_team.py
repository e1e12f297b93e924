"""Red-Team Concept: can an erased concept be brought back?"""

from __future__ import annotations

from collections.abc import Sequence

from comfy_api.latest import io
from PIL import Image

from ..erasure_core.concepts import ConceptPair, lines
from ..erasure_core.evaluation.judges.judge import ConceptJudge
from ..erasure_core.evaluation.report import accuracy_lines, judge_figures
from ..erasure_core.evaluation.sampler import Sampling
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
    """What base, no attack, attack and control drew, with the judge's verdicts, and how good it is."""
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
            description="Tries to bring an erased concept back and reports how often it succeeds, beside no attack and a "
            "control. Both models stay as they are.",
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
        """What can be refused before a checkpoint is loaded; an input that is linked is None. The host passes a dynamic
        combo whether it is asked for or not, and checks what is in it itself."""
        return refused(lambda: check_attacked(concept, templates), lambda: check_sizes(width, height))

    @classmethod
    def execute(
        cls,
        model,
        erased_model,
        clip,
        vae,
        judge: ConceptJudge,
        concept: str,
        attack: dict,
        templates: str,
        attempts: int,
        width: int,
        height: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        seed: int,
        batch_size: int,
        filename_prefix: str,
        synonyms: str = "",
        other_labels: str = "",
    ) -> io.NodeOutput:
        """Attack, write the files, and return pictures and report."""
        # before the attack: a bad name must not cost an hour
        filename_prefix = safe_prefix(filename_prefix, width, height).as_posix()
        chosen, node_id = chosen_attack(attack, seed), cls.hidden.unique_id
        concept = ConceptPair(concept.strip()).target
        judge = judge.labelled([concept, *lines(other_labels or "")])
        sampling = Sampling(width, height, steps, cfg, sampler_name, scheduler, batch_size)
        progress = NodeProgress(node_id, *work_of([chosen], attempts, steps))
        subject = attacked_model_of(
            model, erased_model, clip, vae, judge, concept, templates, sampling, synonyms, progress.check
        )
        finding = run(subject, chosen, attempts, model, progress)
        text, sheet = written(finding, judge, clip, filename_prefix)
        host.send_text(text.splitlines()[-1], node_id)
        return io.NodeOutput(as_image(sheet), text)


def written(finding: Finding, judge: ConceptJudge, clip: object, prefix: str) -> tuple[str, Image.Image]:
    """Write the report, the grid, the strongest picture, the figures, and an embedding if one was found; the report with
    the paths in its last lines, and the grid."""
    sheet, (figures, said) = pictures(finding, accuracy_lines(judge)), figures_of(finding, clip, prefix)
    text = markdown([finding], accuracy_lines(judge)) + said
    strongest = as_picture(finding.outcome.attack.strongest()[0])
    figures |= judge_figures(judge)
    path = evaluation_files.write(prefix, text, figures, {"grid": sheet, "strongest": strongest})
    return f"{text}\nFigures and pictures: {path}\n", sheet
