"""Search for words before the prompt with which the erased model makes the desired predictions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..evaluation.prompts import GAP
from ..guidance import squared_error
from ..report import Report
from ..training.trajectory import NoisyBatch
from .attacked_model import AttackedModel, SoftDenoiser, SoftPrompt, plain_prompts
from .denoising import BATCH, minimise


@dataclass(frozen=True)
class Search:
    """How a search runs: `k` words, Adam's steps and step size."""

    k: int
    steps: int
    learning_rate: float


def relaxed(
    table: Tensor, k: int, generator: torch.Generator
) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, Tensor]]]:
    """UnlearnDiffAtk's words: logits (k, words) on the simplex, read by the straight-through estimator (arXiv 2310.11868,
    equation 7): forward the likeliest word's vector, backward the gradient of the mixture.

    Returns the start and the reading (what is optimised) -> (vectors (k, width), rows (k,)).
    """

    def read(logits: Tensor) -> tuple[Tensor, Tensor]:
        weights, rows = logits.softmax(1), logits.argmax(1)
        hard = F.one_hot(rows, len(table)).to(weights.dtype)
        return (hard + weights - weights.detach()) @ table, rows

    return 0.01 * torch.randn(k, len(table), generator=generator).to(table.device), read


def projected(
    table: Tensor, k: int, generator: torch.Generator
) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor, Tensor]]]:
    """P4D's words: free vectors, read as the nearest word's by cosine, whose gradient goes to the free ones (arXiv
    2309.06135, section 3.3). Returns what `relaxed` returns."""
    normed = F.normalize(table, dim=1)

    def read(vectors: Tensor) -> tuple[Tensor, Tensor]:
        rows = (F.normalize(vectors.detach(), dim=1) @ normed.T).argmax(1)
        return table[rows] + vectors - vectors.detach(), rows

    return table[torch.randperm(len(table), generator=generator)[:k]].clone(), read


def search(
    attacked: AttackedModel,
    denoiser: SoftDenoiser,
    samples: NoisyBatch,
    table: Tensor,
    how: Callable[..., tuple[Tensor, Callable[[Tensor], tuple[Tensor, Tensor]]]],
    settings: Search,
    generator: torch.Generator,
    report: Report,
) -> list[int]:
    """Rows of the table for `settings.k` words before the concept's prompt, those with the least error against
    `samples.conditional` that the search met. Only the words change; every step compares several noise levels at once."""
    start, read = how(table, min(settings.k, len(table)), generator)
    free = start.requires_grad_(True)
    prompts = plain_prompts(attacked, settings.steps)
    errors: dict[tuple[int, ...], list[float]] = {}

    def loss(step: int) -> Tensor:
        picked = torch.randint(len(samples.sigma), (BATCH,), generator=generator).to(samples.sigma.device)
        batch = samples.rows(picked)
        vectors, rows = read(free)
        conditioning = denoiser.encode_soft(SoftPrompt(f"{GAP} {prompts[step]}", vectors)).repeat(BATCH)
        predicted = denoiser.predict(batch.latents, batch.sigma, conditioning)
        attacked.count(BATCH)
        error = squared_error(predicted, batch.conditional, batch.sigma).mean()
        errors.setdefault(tuple(rows.tolist()), []).append(float(error.detach()))
        return error

    minimise(denoiser, [free], settings.steps, settings.learning_rate, loss, report)
    # a step's error depends on its noise levels: words that were tried often are judged by their mean
    often = max(len(values) for values in errors.values())
    known = {rows: values for rows, values in errors.items() if 2 * len(values) >= often}
    return list(min(known, key=lambda rows: sum(known[rows]) / len(known[rows])))
