"""Settings and steps of the closed forms on sentences: where their rows come from, their weights, the rank of the result."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..concepts import ErasureRequest
from ..denoiser import Denoiser
from ..method import setting
from ..report import TEXT, Report, Work
from ..text.synonyms import synonym_limit, template_words_like
from ..text.vocabulary import word_list, words_of
from .ridge import ClosedFormMethod, TextEdit, best_of_rank, compact, normal_matrix, solve
from .text_rows import TOKENS, Rows, erased_rows, retained_prompts, retained_rows, retained_words

NO_WORDS = "none"


@dataclass(frozen=True, kw_only=True)
class TextRowsMethod(ClosedFormMethod):
    """A closed form on the rows of sentences (`text_rows`): the settings of where the rows come from and their weights."""

    sentences: int = setting(
        24, "Sentences in which the target is erased ('a picture of a ...', 'a small ...').", minimum=1, maximum=1000
    )
    tokens: str = setting(
        "all",
        "Which text states of a sentence are edited. " + "; ".join(f"{k}: {v}" for k, v in TOKENS.items()) + ".",
        choices=tuple(TOKENS),
    )
    negative_guidance: float = setting(
        0.5, "How far past the anchor the target's text states are pushed.", minimum=0.0, maximum=10.0, step=0.1
    )
    erase_weight: float = setting(
        1.0, "Weight of the target's text states.", minimum=1e-4, maximum=1e4, step=0.1, advanced=True
    )
    retain_weight: float = setting(
        1.0, "Weight of the text states that stay as they are.", minimum=0.0, maximum=1e4, step=0.1
    )
    ridge: float = setting(
        0.5, "Weight of leaving the weights alone. Large values erase less.", minimum=1e-4, maximum=1e9, step=0.1
    )
    rank: int = setting(
        8, "Rank of the edit for each concept. 0 keeps the exact solution: a larger file.", minimum=0, maximum=768
    )
    vocabulary: str = word_list(
        "Words that stay as they are, besides the retain lines. model_words are the most frequent whole words of the "
        "text encoder; none keeps only the retain lines.",
        more=(NO_WORDS,),
    )
    candidates: int = setting(
        60, "How many words of the vocabulary stay as they are: those nearest to a target.", minimum=1, maximum=3000
    )
    synonym_similarity: float = synonym_limit()
    kept_sentences: int = setting(
        2, "Sentences for each word that stays, besides the word alone.", minimum=0, maximum=64, advanced=True
    )

    def work(self, request: ErasureRequest) -> Work:
        """See `ErasureMethod.work`; most of it is the text of the sentences."""
        work = super().work(request)
        retained = self.candidates * self.kept_sentences + len(request.retain) * (1 + self.kept_sentences)
        about = len(request.pairs) * (2 * self.sentences + 4 * self.kept_sentences)
        return {**work, TEXT: (work[TEXT][0] + retained + about, 1.0)}

    def rows(self, denoiser: Denoiser, request: ErasureRequest, report: Report) -> tuple[Rows, Tensor]:
        """The rows to edit, and the rows (n, width) to keep."""
        words = [] if self.vocabulary == NO_WORDS else words_of(self.vocabulary, denoiser, max(self.candidates, 1000))
        retained, synonyms = retained_words(
            denoiser, request, words, self.candidates, self.synonym_similarity, report.check
        )
        if synonyms:
            report.note("not kept, being synonyms of a target: " + ", ".join(synonyms))
        avoid = (*synonyms, *template_words_like(denoiser, request.targets))
        prompts = retained_prompts(request, retained, avoid, self.kept_sentences, self.seed)
        erased = erased_rows(
            denoiser,
            request,
            sentences=self.sentences,
            tokens=self.tokens,
            eta=self.negative_guidance,
            seed=self.seed,
            check=report.check,
        )
        rows, states = Rows.cat(erased), retained_rows(denoiser, prompts, report.check)
        report.costs["text_states_edited"], report.costs["text_states_kept"] = len(rows.states), len(states)
        return rows, states

    def exact(self, states: Tensor, desired: Tensor, retained: Tensor) -> TextEdit:
        """`solve` with this method's weights."""
        return solve(
            states,
            desired,
            retained,
            erase_weight=self.erase_weight,
            retain_weight=self.retain_weight,
            ridge=self.ridge,
        )

    def limited(self, edit: TextEdit, states: Tensor, retained: Tensor, pairs: int) -> TextEdit:
        """The best edit of the rank that `pairs` concepts may have; for rank 0 the exact one, without idle directions."""
        width = edit.shift.shape[1]
        if edit.rank > width:
            edit = TextEdit(edit.shift.T @ edit.down, torch.eye(width, dtype=edit.shift.dtype))
        if not self.rank:
            return compact(edit)
        normal = normal_matrix(states, retained, self.erase_weight, self.retain_weight, self.ridge)
        return best_of_rank(edit, normal, self.rank * pairs)
