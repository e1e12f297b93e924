"""An attack as the nodes run it: the models under attack, the run, and its findings as files and figures."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from ...erasure_core.concepts import ConceptPair, lines
from ...erasure_core.evaluation.prompts import parse_templates
from ...erasure_core.files import write_new
from ...erasure_core.red_team.attack import Attack, check_fits
from ...erasure_core.red_team.run import Finding, find, plain
from ...erasure_core.report import Check
from .. import host
from ..outputs.file_names import numbered, safe_prefix
from .progress import NodeProgress
from .red_team_progress import attacking


def attacked_model_of(
    linked: host.LinkedModels,
    concept: str,
    templates: str,
    synonyms: str | None,
    other_labels: str | None,
    check: Check,
) -> host.ComfyAttackedModel:
    """The models under attack, from a node's inputs. A zero-shot judge chooses between the concept and `other_labels`.

    Raises ValueError for a judge without a label for the concept, or templates without a gap.
    """
    concept = ConceptPair(concept.strip()).target
    judge = linked.judge.labelled([concept, *lines(other_labels or "")]) if linked.judge else None
    linked = dataclasses.replace(linked, judge=judge)
    return host.ComfyAttackedModel(linked, concept, parse_templates(templates), lines(synonyms or ""), check)


def run(attacked: host.ComfyAttackedModel, attack: Attack, n: int, progress: NodeProgress | None = None) -> Finding:
    """Attack, and leave the base model's weights in place."""
    with attacking(attacked.linked.model, attack.name, progress) as report:
        check_fits(attacked, attack)
        return find(attacked, attack, n, plain(attacked, n, attack.seed, report), report)


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
    sentence = f"\nThe embedding was saved: write `embedding:red_team/{path.stem}` into a prompt.\n"
    return figures | {"embedding": path.name}, sentence


def check_attacked(concept: str | None, templates: str | None) -> None:
    """Raise ValueError for a concept or templates that nothing can be attacked with; what is not known yet is None."""
    if concept is not None:
        ConceptPair(concept.strip())
    if templates is not None:
        parse_templates(templates)
