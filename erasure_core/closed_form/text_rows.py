"""The text states that an edit of keys and values is fitted on: pairs of rows "read this as that", and rows to retain.

The state of a token depends on the words before it, and the tokens after a concept, padding too, carry it along. So the
rows come from sentences (`prompt_templates`) about the target and from the same sentences about its anchor, aligned at their
ends: the same words and the same end of the text follow in both.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..concepts import ConceptPair, ErasureRequest
from ..denoiser import Denoiser
from ..guidance import negative_guidance
from ..report import Check, unwatched
from ..text.candidates import encode_ahead, encode_words, prefilter, shortlist
from ..text.prompt_templates import PLAIN, PromptTemplate, draw_templates
from ..text.synonyms import evenly, template_words_like

PADDING_ROWS = 4
"""Rows taken of the tokens after a prompt's own: they are nearly one and the same row, seventy times."""
TOKENS = {
    "last": "only the target's last token, as in the paper's code",
    "all": "the target's tokens and all that follow, which carry it along",
    "others": "only the tokens that follow",
}


@dataclass(frozen=True)
class Rows:
    """Text states and their target states, both (n, width) in float64."""

    states: Tensor
    desired: Tensor

    @staticmethod
    def cat(parts: Sequence[Rows]) -> Rows:
        """All rows of `parts`, in order."""
        return Rows(torch.cat([part.states for part in parts]), torch.cat([part.desired for part in parts]))


def generator_for(concept: str, seed: int) -> torch.Generator:
    """Random numbers for one concept: what is drawn for it does not depend on what else is asked for."""
    return torch.Generator().manual_seed(zlib.crc32(concept.encode()) ^ (seed & 0xFFFFFFFF))


def _rows_of(denoiser: Denoiser, prompt: str, rows: Sequence[int]) -> Tensor:
    """The states of a prompt that keys and values read, (rows, width) in float64, on the CPU: the systems are small, and
    not every device can do float64."""
    return denoiser.read(denoiser.encode([prompt]).tokens[:, list(rows)])[0].detach().cpu().double()


def _length(denoiser: Denoiser, prompt: str) -> int:
    return denoiser.encode([prompt]).tokens.shape[1]


def _stand_in(denoiser: Denoiser, sentence: str, following: int, first: int) -> int:
    """The row of `sentence` before its last `following` words: what stands where the concept stood."""
    positions = denoiser.positions(sentence) if sentence else []
    end = positions[-1] + 1 if positions else first
    return max(0, end - following - 1)


def aligned(denoiser: Denoiser, pair: ConceptPair, template: PromptTemplate, tokens: str, eta: float = 0.0) -> Rows:
    """The rows of one sentence: those of the target in `template`, to be read as those of the anchor in it.

    `tokens` is one of `TOKENS`; with eta the desired rows lie past the anchor (`guidance.negative_guidance`).
    Raises ValueError if the tokenizer does not find the target in its own sentence.
    """
    sentence = template.with_concept(pair.target)
    positions, concept = denoiser.positions(sentence), denoiser.positions(sentence, pair.target)
    last, end = concept[-1], positions[-1] + 1
    anchored, neutral = template.with_concept(pair.anchor), template.with_concept(pair.neutral)
    # aligned at the target's last token: behind it the same words follow in all three sentences, then the same padding
    starts = [_stand_in(denoiser, other, end - last - 1, positions[0]) for other in (anchored, neutral)]
    begins = zip((sentence, anchored, neutral), (last, *starts), strict=True)
    length = min(_length(denoiser, one) - start for one, start in begins)
    following = [*range(1, end - last), *evenly(end - last, length, PADDING_ROWS)]
    steps = {"last": [0], "all": [0, *following], "others": following}[tokens]
    earlier = concept[:-1] if tokens == "all" else []
    steps_taken = [0] * len(earlier) + steps  # the target's earlier tokens are read as the anchor's last one too
    states = _rows_of(denoiser, sentence, [*earlier, *(last + step for step in steps)])
    anchor = _rows_of(denoiser, anchored, [starts[0] + step for step in steps_taken])
    if anchored == neutral:
        return Rows(states, negative_guidance(anchor, states, anchor, eta))
    without = _rows_of(denoiser, neutral, [starts[1] + step for step in steps_taken])
    return Rows(states, negative_guidance(anchor, states, without, eta))


def sentences_for(concept: str, n: int, seed: int, avoid: Collection[str] = ()) -> list[PromptTemplate]:
    """n templates of a concept. Of two attributes either may come first, and the second's state carries the first: half
    of the sentences that say an attribute before the concept and a noun after it say it between the two."""
    templates = draw_templates(concept, n, generator_for(concept, seed), avoid)
    for index in range(len(PLAIN), n, 4):
        match templates[index].template.split():
            case [article, attribute, "{}", noun]:
                templates[index] = PromptTemplate(f"{article} {{}} {attribute} {noun}", templates[index].neutral)
    return templates


def erased_rows(
    denoiser: Denoiser,
    request: ErasureRequest,
    *,
    sentences: int,
    tokens: str,
    eta: float,
    seed: int,
    check: Check = unwatched,
) -> list[Rows]:
    """The rows of each pair, in order, from `sentences` sentences each."""
    avoid = template_words_like(denoiser, request.targets)
    concepts = []
    for pair in request.pairs:
        templates = sentences_for(pair.target, sentences, seed, avoid)
        words = (pair.target, pair.anchor, pair.neutral)
        encode_ahead(denoiser, [template.with_concept(word) for template in templates for word in words], check)
        concepts.append(Rows.cat([aligned(denoiser, pair, template, tokens, eta) for template in templates]))
    return concepts


def retained_words(
    denoiser: Denoiser,
    request: ErasureRequest,
    words: Sequence[str],
    keep: int,
    synonym_similarity: float,
    check: Check = unwatched,
) -> tuple[list[str], list[str]]:
    """The user's retain lines and the `keep` words most like a target; and the words left out as synonyms of one."""
    retained = list(dict.fromkeys(request.retain))
    words = [word for word in words if not request.says_target(word) and word not in retained]
    if not words:
        return retained, []
    everything = encode_words(denoiser, shortlist(denoiser, request.targets, words, keep, "nearest"), check)
    targets = denoiser.encode(request.targets)
    nearest, synonyms = prefilter(everything, targets, keep, "nearest", synonym_similarity)
    return [*retained, *nearest.words], synonyms


def retained_prompts(
    request: ErasureRequest, words: Sequence[str], avoid: Sequence[str], sentences: int, seed: int
) -> list[str]:
    """Prompts that must stay as they are: the empty one, each word alone, and in sentences; the target's own sentences
    without it. None of them says a target or one of the words to `avoid`."""
    prompts = ["", *words]
    for word in words:
        drawn = draw_templates(word, 3 + sentences, generator_for(word, seed))[3:]
        prompts += [template.with_concept(word) for template in drawn]
    for pair in request.pairs:
        drawn = draw_templates(pair.target, 3 + 4 * sentences, generator_for(pair.target, seed))
        prompts += [template.neutral for template in drawn]
    forbidden = [f" {word.casefold()} " for word in (*request.targets, *avoid)]
    allowed = [p for p in dict.fromkeys(prompts) if not any(word in f" {p.casefold()} " for word in forbidden)]
    return [*allowed, *(line for line in request.retain if line not in allowed)]


def retained_rows(denoiser: Denoiser, prompts: Sequence[str], check: Check = unwatched) -> Tensor:
    """The rows (n, width) of all prompts: each one's own tokens and a few of those that follow; the tokens before, the
    same for all prompts, once."""
    encode_ahead(denoiser, prompts, check)
    rows = []
    for prompt in prompts:
        positions = denoiser.positions(prompt) if prompt else []
        end = positions[-1] + 1 if positions else 0
        following = evenly(end, _length(denoiser, prompt), PADDING_ROWS)
        rows.append(_rows_of(denoiser, prompt, [*positions, *following]))
    return torch.cat(rows)
