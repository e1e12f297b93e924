"""Latent anchoring: text states that represent "everything else" while one concept is erased."""

from __future__ import annotations

import torch

from ..concepts import ErasureRequest
from ..denoiser import Conditioning, Denoiser
from ..report import Check, unwatched
from .candidates import encode_words
from .prompt_templates import draw_templates
from .synonyms import similarities, template_words_like
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
    avoid = template_words_like(denoiser, request.targets)
    sentences = []
    for i, word in enumerate(chosen):
        sentences.append(draw_templates(word, len(chosen), generator, avoid)[i].with_concept(word))
    return encode_words(denoiser, ["", *request.retain, *sentences], check).conditioning


def latent_anchors(meanings: Conditioning, target: Conditioning, n: int, generator: torch.Generator) -> Conditioning:
    """n random embeddings: mixtures of two meanings, each kept with probability 1 - cos to the target (cosines under 0
    count as 0), SPM's latent anchoring. Where no draw of a generous number is kept, the least similar one is."""
    tries = 8 * n
    rows = torch.arange(tries)[:, None]
    # each draw is share * one meaning + (1 - share) * another; the two may be the same
    weights = torch.zeros(tries, len(meanings))
    pairs = torch.randint(len(meanings), (tries, 2), generator=generator)
    share = torch.rand(tries, 1, generator=generator)
    weights.index_put_((rows.expand(-1, 2), pairs), torch.cat([share, 1 - share], 1), accumulate=True)
    drawn = meanings.mixed(weights.to(meanings.tokens.device))
    cosine = similarities(drawn, target).clamp(0, 1).cpu()
    accepted = torch.rand(tries, generator=generator) < 1 - cosine
    # the kept ones first, in the order drawn; then the rest, the least similar first
    order = torch.argsort(torch.where(accepted, rows[:, 0].float(), tries + cosine))
    return drawn.rows(order[:n].to(drawn.tokens.device))
