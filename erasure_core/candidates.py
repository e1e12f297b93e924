"""Which words of a vocabulary a search may name: near the targets, but neither a target nor a synonym of one."""

from __future__ import annotations

from .adversary import Candidates, prefilter
from .concepts import ErasureRequest
from .denoiser import Denoiser
from .report import Report
from .vocabulary import words_of

SEEN_AT_LEAST = 1000


def candidates_of(
    denoiser: Denoiser,
    request: ErasureRequest,
    report: Report,
    *,
    vocabulary: str,
    keep: int,
    how: str,
    synonym_similarity: float,
) -> Candidates:
    """At most `keep` words of the vocabulary, chosen by `adversary.prefilter`; the report names the synonyms left out.

    Raises ValueError for an unknown vocabulary or pre-filter, and if nothing is left.
    """
    words = words_of(vocabulary, denoiser, limit=max(keep, SEEN_AT_LEAST))
    words = [word for word in words if not request.says_target(word)]
    everything = Candidates(tuple(words), denoiser.encode(words))
    kept, synonyms = prefilter(everything, denoiser.encode(request.targets), keep, how, synonym_similarity)
    if synonyms:
        report.note("left out of the candidates as synonyms of a target: " + ", ".join(synonyms))
    return kept
