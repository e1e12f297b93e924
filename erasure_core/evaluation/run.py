"""Draw every prompt with both models from the same noise, and judge what they drew."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..report import Check, unwatched
from .drift import mean_square
from .judges.judge import ConceptJudge, Look
from .prompts import EMPTY, GROUPS, KEPT, LOOK_ALIKE, Prompt
from .report import Evaluation
from .sampler import ImageSampler, Samples, Sampling
from .scores import Expected, Pair, expected_of

DRAWN_AT_ONCE = 32
"""Pictures of one model before the other's turn: on a shared network, changing over costs a patching of the weights."""


@dataclass
class Watcher:
    """Callbacks of a running evaluation. `on_pairs(done, planned, pairs, before, after)` gets the pictures
    (n, height, width, 3) of both models; it and `check` may raise to cancel."""

    on_pairs: Callable[[int, int, Sequence[Pair], Tensor, Tensor], None] = unwatched
    check: Check = unwatched
    pairs: list[Pair] = field(default_factory=list)


@dataclass(frozen=True)
class Job:
    """An evaluation to be done: who draws, what is drawn, who judges. `judge` is already labelled, or None. `notes` say what
    a reader of the report must know of its prompts."""

    base: ImageSampler
    erased: ImageSampler
    judge: ConceptJudge | None
    concepts: tuple[str, ...]
    prompts: tuple[Prompt, ...]
    pictures_per_prompt: int
    seed: int
    sampling: Sampling
    notes: tuple[str, ...] = ()

    def planned(self) -> list[tuple[Prompt, int]]:
        """Each picture's prompt and seed. Seeds count up within a group, so that adding a group changes no other; a
        prompt with a seed of its own is drawn once more for each following seed. Within a group those of one guidance scale
        and size follow one another, so that they can be drawn together."""
        found: list[tuple[Prompt, int]] = []
        for group in GROUPS:
            asked = [prompt for prompt in self.prompts if prompt.group == group]
            mine = []
            for place, prompt in enumerate(prompt for prompt in asked for _ in range(self.pictures_per_prompt)):
                stated = None if prompt.seed is None else prompt.seed + place % self.pictures_per_prompt
                mine.append((prompt, (self.seed + place if stated is None else stated) % 2**64))
            found += sorted(mine, key=lambda one: _alike(one[0]))
        return found


def concepts_of(prompts: Sequence[Prompt]) -> tuple[list[str], list[str]]:
    """The concepts that a judge must know, and look-alikes that it may not know: nobody gave these a label, as where they
    come from Find Adversarial Concept. Then only their drift counts."""
    must: dict[str, None] = {}
    may: dict[str, None] = {}
    for prompt in prompts:
        if prompt.concept:
            unlabelled = prompt.group == LOOK_ALIKE and prompt.concept in prompt.text
            (may if unlabelled else must)[prompt.concept] = None
    return list(must), [concept for concept in may if concept not in must]


def evaluate(job: Job, watcher: Watcher) -> Evaluation:
    """Draw and judge everything. What `watcher` raises comes through; `watcher.pairs` holds what was measured so far."""
    started, planned = time.monotonic(), job.planned()
    expected = _expected(job)
    for part in _batches(planned):
        watcher.check(f"drawing {part[0][0].group} prompts, {len(watcher.pairs)} of {len(planned)} pairs done")
        texts, seeds = [prompt.text for prompt, _ in part], [seed for _, seed in part]
        scale, size = part[0][0].guidance_scale, part[0][0].size
        base, erased = (one.sized(*size) if size else one for one in (job.base, job.erased))
        before, after = base.draw(texts, seeds, scale), erased.draw(texts, seeds, scale)
        new = _pairs(job.judge, part, expected, before, after)
        watcher.pairs += new
        watcher.on_pairs(len(watcher.pairs), len(planned), new, before.pictures, after.pictures)
    return summary(job, watcher.pairs, time.monotonic() - started)


def summary(job: Job, pairs: Sequence[Pair], seconds: float) -> Evaluation:
    """The evaluation of what was drawn so far."""
    return Evaluation(
        job.concepts, job.judge, job.sampling, job.seed, tuple(pairs), len(job.planned()), seconds, _notes(job)
    )


def _alike(prompt: Prompt) -> tuple[float, tuple[int, int]]:
    """Equal for prompts that can be drawn together; without a value of their own they come first."""
    return -1.0 if prompt.guidance_scale is None else prompt.guidance_scale, prompt.size or (0, 0)


def _batches(planned: Sequence[tuple[Prompt, int]]) -> Iterator[list[tuple[Prompt, int]]]:
    """Batches that are drawn at once: prompts of one group, guidance scale and size."""
    batch: list[tuple[Prompt, int]] = []
    for prompt, seed in planned:
        same = batch and (batch[0][0].group, _alike(batch[0][0])) == (prompt.group, _alike(prompt))
        if batch and (not same or len(batch) == DRAWN_AT_ONCE):
            yield batch
            batch = []
        batch.append((prompt, seed))
    if batch:
        yield batch


def _expected(job: Job) -> dict[Prompt, Expected | None]:
    if job.judge is None:
        return dict.fromkeys(job.prompts)
    home = job.judge.factor_of(job.concepts[0])
    return {prompt: expected_of(prompt, job.judge, home.name if home else "") for prompt in job.prompts}


def _notes(job: Job) -> tuple[str, ...]:
    """Notes that a reader of the table needs."""
    if job.judge is None:
        return job.notes
    expected = _expected(job)
    silent = [p.text for p in job.prompts if p.group != EMPTY and expected[p] is None]
    notes = list(job.notes)
    if silent:
        notes.append(
            f"not judged, as the judge has no label for what they say (only their drift counts): {len(silent)} prompts, the "
            f"first {silent[0][:60]!r}"
        )
    if not any(prompt.group in KEPT for prompt in job.prompts):
        notes.append("nothing that should stay was asked for: add look_alikes and retain_prompts to see the damage")
    return tuple(notes)


def _pairs(
    judge: ConceptJudge | None,
    part: Sequence[tuple[Prompt, int]],
    expected: dict[Prompt, Expected | None],
    before: Samples,
    after: Samples,
) -> list[Pair]:
    latents = mean_square(before.latents, after.latents).tolist()
    pixels = mean_square(before.pictures, after.pictures).tolist()
    # both models' pictures in one call: base first, erased behind
    looks = [Look(None)] * (2 * len(part))
    if judge is not None:
        looks = judge.look(torch.cat([before.pictures, after.pictures]))
    return [
        Pair(
            prompt,
            seed,
            latents[i],
            pixels[i],
            expected[prompt],
            base.verdict,
            erased.verdict,
            base.found,
            erased.found,
        )
        for i, ((prompt, seed), base, erased) in enumerate(
            zip(part, looks[: len(part)], looks[len(part) :], strict=True)
        )
    ]
