"""An evaluation as the node runs it: with progress and pictures, and with files also when it is stopped."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from ...erasure_core.erased_unet import ErasedUNet
from ...erasure_core.evaluation.prompts import Prompt
from ...erasure_core.evaluation.report import Evaluation
from ...erasure_core.evaluation.run import Job, Watcher, concepts_of, evaluate, summary
from ...erasure_core.evaluation.scores import Pair
from ...erasure_core.report import EVALUATIONS, TEXT, Check, Work
from .. import host
from ..outputs import evaluation_files
from ..pictures.evaluation import Album, chart
from .progress import NodeProgress


@dataclasses.dataclass(frozen=True)
class Result:
    """A finished evaluation with its pictures, and the folder in which all of them lie, if they were to be kept."""

    evaluation: Evaluation
    album: Album
    folder: Path | None = None


def samplers(linked: host.LinkedModels, check: Check) -> tuple[host.ComfyImageSampler, host.ComfyImageSampler]:
    """Base and erased model, which draw equal pictures where the models are equal."""
    encoded: dict = {}
    base, erased = (
        host.ComfyImageSampler(model, linked.clip, linked.vae, linked.sampling, encoded, check)
        for model in (linked.model, linked.erased_model)
    )
    return base, erased


def fitted(model: object, prompts: Sequence[Prompt]) -> tuple[list[Prompt], list[str]]:
    """The prompts with sizes that fit the model's latents, cut to the next smaller one where a table says another, and a
    note on how many were."""
    fitting, cut = [], []
    for prompt in prompts:
        size = host.fitting_size(model, *prompt.size) if prompt.size else None
        fitting.append(dataclasses.replace(prompt, size=size))
        if prompt.size and size and size != prompt.size:
            cut.append("from {}x{} to {}x{}: {!r}".format(*prompt.size, *size, prompt.text[:60]))
    if not cut:
        return fitting, []
    note = f"{len(cut)} prompts have a size that the model cannot draw and were cut to the next smaller one, the first "
    return fitting, [note + cut[0]]


def run(
    linked: host.LinkedModels,
    concepts: Sequence[str],
    prompts: Sequence[Prompt],
    pictures_per_prompt: int,
    seed: int,
    filename_prefix: str = "",
    node_id: str | None = None,
    notes: Sequence[str] = (),
    save_pictures: bool = False,
) -> Result:
    """Evaluate, and leave the base model's weights in place. `notes` go into the report. On a cancel or error, what was
    measured so far is written to the output folder under `filename_prefix` and named on the node; then the exception goes on.
    With `save_pictures` every picture is written there too, in a folder of its own (`evaluation_files.PictureFolder`).
    """
    judge = linked.judge.labelled(*concepts_of(prompts)) if linked.judge else None
    sampling, progress = linked.sampling, NodeProgress(node_id)
    base, erased = samplers(linked, progress.check)
    prompts, resized = fitted(linked.model, prompts)
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
    watcher, started = Watcher(on_pairs, progress.check), time.monotonic()
    try:
        with host.memory_errors(f"drawing at {sampling.width}x{sampling.height}", "batch_size, width and height"):
            evaluation = evaluate(job, watcher)
        progress.finish()
        return Result(evaluation, album, folder.path if folder else None)
    except BaseException:  # a cancel too: hours of drawing are not lost
        if watcher.pairs and filename_prefix:
            partly = summary(job, watcher.pairs, time.monotonic() - started)
            path = evaluation_files.write_evaluation(
                partly, album.grid(partly), chart(partly), f"{filename_prefix}_partial"
            )
            host.send_text(f"stopped after {len(watcher.pairs)} pairs; what was measured so far: {path}", node_id)
        raise
    finally:  # clones share one network, which has the erased weights now
        host.use(linked.model)


def work_of(job: Job) -> Work:
    """The work of an evaluation, for its progress: prompts to encode, and sampling steps of both models' pictures."""
    planned = job.planned()
    texts = {"", *(prompt.text for prompt, _ in planned)}
    return {TEXT: (len(texts), 1.0), EVALUATIONS: (2 * job.sampling.steps * len(planned), 2.0)}


def scored(erased: ErasedUNet | None, evaluation: Evaluation) -> ErasedUNet | None:
    """The erased UNet with the scores in its metadata."""
    if erased is None:
        return None
    provenance = dataclasses.replace(erased.provenance, scores=evaluation.scores())
    return dataclasses.replace(erased, provenance=provenance)
