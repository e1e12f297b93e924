"""An evaluation as the node runs it: with progress and pictures, and with files also when it is stopped."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from ...erasure_core.erased_unet import ErasedUNet
from ...erasure_core.evaluation.judges.judge import ConceptJudge
from ...erasure_core.evaluation.prompts import Prompt
from ...erasure_core.evaluation.report import Evaluation
from ...erasure_core.evaluation.run import Job, Watcher, concepts_of, evaluate, summary
from ...erasure_core.evaluation.sampler import Sampling
from ...erasure_core.evaluation.scores import Pair
from ...erasure_core.report import EVALUATIONS, TEXT, Check, Work
from .. import host
from ..host.patching import check_same_family
from ..outputs import evaluation_files
from ..pictures.evaluation import Album, chart
from .progress import NodeProgress


@dataclasses.dataclass(frozen=True)
class Result:
    """A finished evaluation with its pictures, and the folder in which all of them lie, if they were to be kept."""

    evaluation: Evaluation
    album: Album
    folder: Path | None = None


def painters(
    model: object, erased_model: object, clip: object, vae: object, sampling: Sampling, check: Check
) -> tuple[host.ComfyImageSampler, host.ComfyImageSampler]:
    """Base and erased model, drawing alike. Raises ValueError if the two models are of different families."""
    check_same_family(model, erased_model)
    encoded: dict = {}
    base, erased = (host.ComfyImageSampler(one, clip, vae, sampling, encoded, check) for one in (model, erased_model))
    return base, erased


def fitted(model: object, prompts: Sequence[Prompt]) -> tuple[list[Prompt], list[str]]:
    """The prompts with sizes that fit the model's latents, cut to the next smaller one where a table says another, and a
    note on how many were."""
    fitting, changed = [], []
    for prompt in prompts:
        size = host.fitting_size(model, *prompt.size) if prompt.size else None
        changed += [prompt] if size != prompt.size else []
        fitting.append(dataclasses.replace(prompt, size=size))
    if not changed:
        return fitting, []
    one = changed[0]
    size = host.fitting_size(model, *one.size)
    note = (
        f"{len(changed)} prompts have a size that the model cannot draw and were cut to the next smaller one, the first from "
        f"{one.size[0]}x{one.size[1]} to {size[0]}x{size[1]}: {one.text[:60]!r}"
    )
    return fitting, [note]


def run(
    model: object,
    erased_model: object,
    clip: object,
    vae: object,
    judge: ConceptJudge | None,
    concepts: Sequence[str],
    prompts: Sequence[Prompt],
    pictures_per_prompt: int,
    seed: int,
    sampling: Sampling,
    filename_prefix: str = "",
    node_id: str | None = None,
    notes: Sequence[str] = (),
    save_pictures: bool = False,
) -> Result:
    """Evaluate, and leave the base model's weights in place. `notes` go into the report. On a cancel or error, what was
    measured so far is written to the output folder under `filename_prefix` and named on the node; then the exception goes on.
    With `save_pictures` every picture is written there too, in a folder of its own (`evaluation_files.PictureFolder`).
    """
    if judge is not None:
        judge = judge.labelled(*concepts_of(prompts))
    progress = NodeProgress(node_id)
    base, erased = painters(model, erased_model, clip, vae, sampling, progress.check)
    prompts, resized = fitted(model, prompts)
    notes = (*notes, *resized)
    job = Job(base, erased, judge, tuple(concepts), tuple(prompts), pictures_per_prompt, seed, sampling, notes)
    progress.plan(work_of(job))
    album = Album(job.planned())

    def on_pairs(done: int, planned: int, pairs: Sequence[Pair], before: Tensor, after: Tensor) -> None:
        album.add(pairs, before, after)
        if folder is not None:
            folder.add(pairs, before, after)
        progress.check(f"{done} of {planned} pairs done")
        progress.picture(album.latest())

    folder = evaluation_files.PictureFolder(filename_prefix, job.planned(), sampling) if save_pictures else None
    watcher = Watcher(on_pairs, progress.check)
    started = time.monotonic()
    try:
        with host.memory_errors(f"drawing at {sampling.width}x{sampling.height}", "batch_size, width and height"):
            evaluation = evaluate(job, watcher)
        progress.finish()
        return Result(evaluation, album, folder.path if folder else None)
    except BaseException:
        if watcher.pairs and filename_prefix:
            partly = summary(job, watcher.pairs, time.monotonic() - started)
            path = evaluation_files.write_evaluation(
                partly, album.grid(partly), chart(partly), f"{filename_prefix}_partial"
            )
            host.send_text(f"stopped after {len(watcher.pairs)} pairs; what was measured so far: {path}", node_id)
        raise
    finally:
        host.use(model)


def work_of(job: Job) -> Work:
    """What an evaluation has to do, for its progress: prompts to encode, and sampling steps of both models' pictures."""
    planned = job.planned()
    texts = {"", *(prompt.text for prompt, _ in planned)}
    return {TEXT: (len(texts), 1.0), EVALUATIONS: (2 * job.sampling.steps * len(planned), 2.0)}


def scored(erased: ErasedUNet | None, evaluation: Evaluation) -> ErasedUNet | None:
    """The erased UNet with the scores in its metadata."""
    if erased is None:
        return None
    provenance = dataclasses.replace(erased.provenance, scores=evaluation.scores())
    return dataclasses.replace(erased, provenance=provenance)
