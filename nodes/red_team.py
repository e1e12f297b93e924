"""Red-Team Concept: can an erased concept be brought back?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from comfy_api.latest import io
from PIL import Image
from safetensors.torch import save
from torch import Tensor

from ..erasure_core.concepts import ConceptPair, lines
from ..erasure_core.evaluation.drawing import Sampling
from ..erasure_core.evaluation.prompts import parse_templates
from ..erasure_core.evaluation.report import accuracy_lines, judge_figures
from ..erasure_core.files import write_new
from ..erasure_core.judge import ConceptJudge
from ..erasure_core.red_team.attack import Attack, check_fits
from ..erasure_core.red_team.run import Finding, find, markdown, plain
from ..erasure_core.report import Check
from . import evaluation_files, host
from .charts import as_image, as_picture, captioned, grid
from .drawing_inputs import check_sizes, refused, sampling_inputs
from .erase import CATEGORY
from .evaluate import TEMPLATES
from .evaluation_run import check_same_family
from .file_names import numbered, safe_prefix
from .progress import NodeProgress
from .red_team_page import shown
from .red_team_progress import attacking, work_of
from .types import ConceptJudgeType
from .widgets import attack_input, chosen_attack


def subject_of(
    model: object,
    erased_model: object,
    clip: object,
    vae: object,
    judge: ConceptJudge,
    concept: str,
    templates: str,
    sampling: Sampling,
    synonyms: str | None,
    check: Check,
) -> host.ComfySubject:
    """What is attacked, from a node's inputs. Raises ValueError for models of two families or templates without a gap."""
    check_same_family(model, erased_model)
    return host.ComfySubject(
        model,
        erased_model,
        clip,
        vae,
        judge,
        concept,
        parse_templates(templates),
        sampling,
        lines(synonyms or ""),
        check,
    )


def run(
    subject: host.ComfySubject, attack: Attack, n: int, model: object, progress: NodeProgress | None = None
) -> Finding:
    """Attack, and leave the base model's weights in place."""
    with attacking(model, attack.name, progress) as report:
        check_fits(subject, attack)
        return find(subject, attack, n, plain(subject, n, attack.seed, report), report)


def pictures(finding: Finding, judge_lines: Sequence[str]) -> Image.Image:
    """What base, no attack, attack and control drew, with the judge's verdicts, and how good it is."""
    shots = {
        "base model, plain prompts": finding.plain.base,
        "erased model, plain prompts": finding.plain.erased,
        f"attack: {finding.attack.label()}": finding.outcome.attack,
        f"control: {finding.outcome.control_is}": finding.outcome.control,
    }
    return captioned(grid([(title, shown(shot)) for title, shot in shots.items()], ("",)), judge_lines)


def save_embedding(clip: object, vectors: Tensor, prefix: str) -> Path:
    """Write words' vectors (k, width) as a file that ComfyUI's `embedding:` reads for this CLIP, into its first such folder."""
    paths = numbered(host.folders("embeddings")[0], safe_prefix(prefix))
    return write_new(paths, save(host.embedding_file(clip, vectors)))


def figures_of(finding: Finding, clip: object, prefix: str) -> tuple[dict[str, Any], str]:
    """The figures of a finding, and a sentence on the embedding that it found and that is saved here ("" without one)."""
    figures = finding.as_json()
    if finding.outcome.embedding is None:
        return figures, ""
    path = save_embedding(clip, finding.outcome.embedding, f"red_team/{safe_prefix(prefix).name}_{finding.attack.name}")
    said = f"\nThe embedding was saved: write `embedding:red_team/{path.stem}` into a prompt.\n"
    return figures | {"embedding": path.name}, said


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
        subject = subject_of(
            model, erased_model, clip, vae, judge, concept, templates, sampling, synonyms, progress.check
        )
        finding = run(subject, chosen, attempts, model, progress)
        text, sheet = written(finding, judge, clip, filename_prefix)
        host.send_text(text.splitlines()[-1], node_id)
        return io.NodeOutput(as_image(sheet), text)


def check_attacked(concept: str | None, templates: str | None) -> None:
    """Raise ValueError for a concept or templates that nothing can be attacked with; what is not known yet is None."""
    if concept is not None:
        ConceptPair(concept.strip())
    if templates is not None:
        parse_templates(templates)


def written(finding: Finding, judge: ConceptJudge, clip: object, prefix: str) -> tuple[str, Image.Image]:
    """Write the report, the grid, the strongest picture, the figures, and an embedding if one was found; the report with
    the paths in its last lines, and the grid."""
    sheet, (figures, said) = pictures(finding, accuracy_lines(judge)), figures_of(finding, clip, prefix)
    text = markdown([finding], accuracy_lines(judge)) + said
    strongest = as_picture(finding.outcome.attack.strongest()[0])
    figures |= judge_figures(judge)
    path = evaluation_files.write(prefix, text, figures, {"grid": sheet, "strongest": strongest})
    return f"{text}\nFigures and pictures: {path}\n", sheet


def inputs_around(attack: io.Input, prefix: str) -> list[io.Input]:
    """The inputs of a node that attacks, with the one that chooses the attack."""
    many = {"multiline": True, "optional": True, "advanced": True}
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
            tooltip="Other words for the concept, one a line: paraphrase tries them, relearn takes them for no other concept.",
        ),
        io.String.Input(
            "other_labels",
            **many,
            tooltip="What else a zero-shot judge may see, one a line; a classifier needs none. relearn draws these, or what "
            "else the classifier knows, as other concepts.",
        ),
    ]
