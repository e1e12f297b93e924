"""What stands for "everything else" while one concept is erased, and a long run in parts."""

from __future__ import annotations

import dataclasses

import torch

from .candidates import encode_words
from .concepts import ErasureRequest
from .contexts import draw_contexts
from .denoiser import Conditioning, Denoiser
from .report import Check, Report, unwatched
from .synonyms import context_words_like, similarities
from .vocabulary import words_of


def other_meanings(
    denoiser: Denoiser,
    request: ErasureRequest,
    vocabulary: str,
    count: int,
    generator: torch.Generator,
    check: Check = unwatched,
) -> Conditioning:
    """The empty prompt, the retain lines, and `count` random words of a vocabulary, each in another sentence."""
    words = [word for word in words_of(vocabulary, denoiser, 1000) if not request.says_target(word)]
    chosen = [words[int(i)] for i in torch.randperm(len(words), generator=generator)[:count]]
    avoid = context_words_like(denoiser, request.targets)
    said = [draw_contexts(word, len(chosen), generator, avoid)[i].with_concept(word) for i, word in enumerate(chosen)]
    return encode_words(denoiser, ["", *request.retain, *said], check).conditioning


def latent_anchors(meanings: Conditioning, target: Conditioning, n: int, generator: torch.Generator) -> Conditioning:
    """n random embeddings: mixtures of two meanings, each kept with probability 1 - cos to the target (cosines under 0
    count as 0), SPM's latent anchoring. Where no draw of a generous number is kept, the least similar one is."""
    tries = 8 * n
    rows = torch.arange(tries)[:, None]
    weights = torch.zeros(tries, len(meanings))
    pairs = torch.randint(len(meanings), (tries, 2), generator=generator)
    share = torch.rand(tries, 1, generator=generator)
    weights.index_put_((rows.expand(-1, 2), pairs), torch.cat([share, 1 - share], 1), accumulate=True)
    drawn = meanings.mixed(weights.to(meanings.tokens.device))
    cosine = similarities(drawn, target).clamp(0, 1).cpu()
    kept = torch.rand(tries, generator=generator) < 1 - cosine
    # the kept ones first, in the order drawn; then the rest, the least similar first
    order = torch.argsort(torch.where(kept, rows[:, 0].float(), tries + cosine))
    return drawn.rows(order[:n].to(drawn.tokens.device))


def part_of(report: Report, done: int, total: int | None = None) -> Report:
    """The same report for a part of a run: its progress counts from `done`, of `total` steps where that is given."""

    def on_progress(step: int, steps: int, loss: float) -> None:
        report.on_progress(done + step, steps if total is None else total, loss)

    def on_preview(step: int) -> None:
        report.on_preview(done + step)

    return dataclasses.replace(report, on_progress=on_progress, on_preview=on_preview)
