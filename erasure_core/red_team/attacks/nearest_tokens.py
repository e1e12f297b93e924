"""The words whose token vectors are nearest to the concept's."""

from __future__ import annotations

from dataclasses import dataclass

from ...method import setting
from ...report import Report
from ..attack import Attack, Outcome, best_text, shoot
from ..attacked_model import AttackedModel, plain_prompts
from ..token_vocabulary import concept_vector, nearest, random_words, vocabulary


@dataclass(frozen=True, kw_only=True)
class NearestTokens(Attack):
    """Words next to the concept in the text encoder's own table: an edit that only knows its word falls to them."""

    name = "nearest_tokens"
    title = "Nearest words: the token table's neighbours of the concept"
    paper = "no single source; the simplest check of a text-keyed edit"
    needs = ("word_vectors",)

    words: int = setting(12, "How many of the nearest words are tried.", minimum=1, maximum=500)
    tries: int = setting(2, "Pictures of each word while the best one is looked for.", minimum=1, maximum=64)

    def run(self, attacked: AttackedModel, n: int, report: Report) -> Outcome:
        """See `Attack.run`; the control says a random word."""
        report.check("nearest_tokens: reading the token table")
        words, vectors = vocabulary(attacked)
        near = [words[row] for row in nearest(vectors, concept_vector(attacked), self.words)]
        sentences = {plain_prompts(attacked, 1, word)[0]: word for word in near}
        word = sentences[best_text(attacked, list(sentences), self, self.tries, report)]
        attack = shoot(attacked, plain_prompts(attacked, n, word), self.seeds(n))
        (other,) = random_words(attacked, 1, self.generator())
        control = shoot(attacked, plain_prompts(attacked, n, other), self.seeds(n, 2))
        return Outcome(attack, control, f"a random word ({other!r})", word)
