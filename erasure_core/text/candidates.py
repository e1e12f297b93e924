"""The candidates of a search: words of a vocabulary near the targets, but neither a target nor a synonym of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..concepts import ErasureRequest
from ..denoiser import Conditioning, Denoiser
from ..method import setting
from ..report import Check, Report, unwatched
from .prompt_templates import siblings
from .synonyms import SYNONYM_SIMILARITY, evenly, similarities, vector_similarities
from .vocabulary import of_one_kind, words_of

SEEN_AT_LEAST = 1000
SPARE = 12
"""Words that are encoded beyond those to keep: some turn out to be synonyms."""
NEAR = 0.75
"""Share of `nearest` that is near: an edit also hurts what nobody would take for a neighbour."""
ENCODED_AT_ONCE = 32
"""Few enough to say how far it is. Not one: on a small card, text encoder and model change places at each call."""
MEMORY = 2 << 30
"""Bytes that the text of all candidates may take: 0.2 MB each for SD 1.5, 31 MB each for Flux.2."""


def candidate_choice(default: str = "nearest") -> Any:
    """The setting that says how `prefilter` chooses."""
    return setting(
        default,
        "Which words of the vocabulary become candidates: for the most part those of a target's kind and the nearest to it, "
        "a spread over all distances, or the first of the list.",
        choices=("nearest", "spread", "first"),
        advanced=True,
    )


def affordable(denoiser: Denoiser) -> int:
    """How many prompts' text fits into `MEMORY`, at least one."""
    one = denoiser.encode([""]).values.values()
    return max(1, MEMORY // sum(value.numel() * value.element_size() for value in one))


def encode_ahead(denoiser: Denoiser, prompts: Sequence[str], check: Check = unwatched, what: str = "sentences") -> None:
    """Let the denoiser know prompts that will be asked for later, maybe one by one: many at once take a fraction of the
    time. It can still be a minute, so `check` hears of the progress."""
    for start in range(0, len(prompts), ENCODED_AT_ONCE):
        check(f"encoding {what}, {start} of {len(prompts)}")
        denoiser.encode(prompts[start : start + ENCODED_AT_ONCE])


def encode_words(denoiser: Denoiser, words: Sequence[str], check: Check = unwatched) -> Candidates:
    """The words with their conditioning."""
    encode_ahead(denoiser, words, check, "words")
    return Candidates(tuple(words), denoiser.encode(words))


def candidates_of(
    denoiser: Denoiser,
    request: ErasureRequest,
    report: Report,
    vocabulary: str,
    keep: int,
    synonym_similarity: float = SYNONYM_SIMILARITY,
    how: str = "nearest",
) -> Candidates:
    """At most `keep` words of the vocabulary, chosen by `prefilter`; the report names the synonyms left out.

    Raises ValueError for an unknown vocabulary or pre-filter, and if nothing is left.
    """
    words = words_of(vocabulary, denoiser, limit=max(keep, SEEN_AT_LEAST))
    words = [word for word in words if not request.says_target(word)]
    words = shortlist(denoiser, request.targets, words, keep, how)
    most = max(keep, affordable(denoiser))
    if len(words) > most:
        report.note(f"only the first {most} of {len(words)} words were searched: this model's text takes much memory")
        words = words[:most]
    everything = encode_words(denoiser, words, report.check)
    chosen, synonyms = prefilter(everything, denoiser.encode(request.targets), keep, how, synonym_similarity)
    if synonyms:
        report.note("left out of the candidates as synonyms of a target: " + ", ".join(synonyms))
    return chosen


def with_neighbours(denoiser: Denoiser, request: ErasureRequest, report: Report, *choice: Any) -> Candidates:
    """What `candidates_of` chooses, after those of the empty prompt, the retain lines and the targets' nearest neighbours
    that are not among it."""
    chosen = candidates_of(denoiser, request, report, *choice)
    lines = ["", *request.retain]
    for target in request.targets:
        lines += [word for word in siblings(target) if not request.says_target(word)]
    lines = [line for line in dict.fromkeys(lines) if line not in chosen.words]
    return Candidates((*lines, *chosen.words), Conditioning.cat([denoiser.encode(lines), chosen.conditioning]))


def shortlist(denoiser: Denoiser, targets: Sequence[str], words: Sequence[str], keep: int, how: str) -> list[str]:
    """The words, out of many, that `prefilter` is to choose `keep` of: a word's text states cost a run of the text encoder,
    its token vectors nothing.

    For `nearest` three quarters are words of a target's own kind, as the word lists have it, and then the nearest by token
    vectors. The others, and all for `spread`, are evenly spread over the similarities. With a text encoder that does not show
    its vectors, all words.
    """
    most = keep + SPARE
    if len(words) <= most or how == "first":
        return list(words[:most])
    similarity = vector_similarities(denoiser, words, targets)
    if similarity is None:
        return list(words)
    kind = of_one_kind(targets)
    near = round(NEAR * most) if how == "nearest" else 0
    order = sorted(range(len(words)), key=lambda i: (near and words[i] not in kind, -float(similarity[i])))
    chosen = [*range(near), *evenly(near, len(words), most - near)]
    return [words[order[i]] for i in chosen]


@dataclass(frozen=True)
class Candidates:
    """Concepts that may be preserved, and their conditioning, in one order."""

    words: tuple[str, ...]
    conditioning: Conditioning

    def __len__(self) -> int:
        return len(self.words)

    def rows(self, index: Sequence[int]) -> Candidates:
        """The chosen candidates."""
        return Candidates(tuple(self.words[i] for i in index), self.conditioning.rows(list(index)))


def prefilter(
    candidates: Candidates, targets: Conditioning, keep: int, how: str, synonym_similarity: float
) -> tuple[Candidates, list[str]]:
    """At most `keep` candidates, and the words left out because they mean the same as a target.

    `nearest` keeps the most similar to a target, `spread` an even spread over all similarities (what the reference
    code's k-means over distances does), `first` the first of the list.
    """
    similarity = similarities(candidates.conditioning, targets)
    synonyms = (similarity > synonym_similarity).nonzero().squeeze(1).tolist()
    rest = [i for i in range(len(candidates)) if i not in set(synonyms)]
    if not rest:
        raise ValueError(
            f"all {len(candidates)} candidate words are synonyms of the targets; choose another vocabulary "
            f"or raise the synonym similarity above {synonym_similarity}"
        )
    if how == "nearest":
        rest.sort(key=lambda i: -float(similarity[i]))
    elif how == "spread":
        rest.sort(key=lambda i: -float(similarity[i]))
        rest = [rest[i] for i in evenly(0, len(rest), keep)]
    elif how != "first":
        raise ValueError(f"unknown pre-filter {how!r}; choose nearest, spread or first")
    return candidates.rows(rest[:keep]), [candidates.words[i] for i in synonyms]
