"""An attack as the nodes run it: the models under attack, the run, and what it found as files and figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from ...erasure_core.concepts import ConceptPair, lines
from ...erasure_core.evaluation.judges.judge import ConceptJudge
from ...erasure_core.evaluation.prompts import parse_templates
from ...erasure_core.evaluation.sampler import Sampling
from ...erasure_core.files import write_new
from ...erasure_core.red_team.attack import Attack, check_fits
from ...erasure_core.red_team.run import Finding, find, plain
from ...erasure_core.report import Check
from .. import host
from ..host.patching import check_same_family
from ..outputs.file_names import numbered, safe_prefix
from .progress import NodeProgress
from .red_team_progress import attacking


def attacked_model_of(
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
) -> host.ComfyAttackedModel:
    """What is attacked, from a node's inputs. Raises ValueError for models of two families or templates without a gap."""
    check_same_family(model, erased_model)
    return host.ComfyAttackedModel(
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
    subject: host.ComfyAttackedModel, attack: Attack, n: int, model: object, progress: NodeProgress | None = None
) -> Finding:
    """Attack, and leave the base model's weights in place."""
    with attacking(model, attack.name, progress) as report:
        check_fits(subject, attack)
        return find(subject, attack, n, plain(subject, n, attack.seed, report), report)


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


def check_attacked(concept: str | None, templates: str | None) -> None:
    """Raise ValueError for a concept or templates that nothing can be attacked with; what is not known yet is None."""
    if concept is not None:
        ConceptPair(concept.strip())
    if templates is not None:
        parse_templates(templates)
