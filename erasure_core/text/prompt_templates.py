"""Prompt templates: the sentences around a concept while it is erased or preserved.

Nobody prompts with a bare word. An edit that was learned on the bare word alone, while its neighbours are preserved, fits
that one prompt and leaves "a small striped circle" as it was. So the target is also shown in short sentences, and there
it is pushed towards the same sentence without it: what else the sentence says is not to be erased.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import torch

# Words of one kind exclude each other: nothing is striped and dotted, or red and blue.
KINDS = {
    "colour": ("red", "green", "blue", "yellow", "black", "white", "gray", "brown", "orange", "pink", "purple", "teal"),
    "pattern": ("striped", "dotted", "checked", "solid", "plain"),
    "size": ("small", "large", "tiny", "huge"),
    "light": ("bright", "dark", "pale"),
    "age": ("old", "new", "ancient", "modern"),
    "material": ("wooden", "golden", "metal", "glass"),
}
NOUNS = (
    "thing", "object", "shape", "house", "dress", "car", "bird", "tree", "ball", "box", "circle", "square", "star", "ring",
)  # fmt: skip
SUBJECTS = (
    *NOUNS[3:10], "cat", "horse", "fish", "flower", "apple", "bread", "cake", "castle", "train", "boat", "airplane", "guitar",
    "chair", "clock", "hat", "shoe", "hammer", "book", "man", "woman",
)  # fmt: skip
"""What is drawn in a style, of many kinds: a style is erased from the pictures of every thing."""
BEGINNINGS = ("a picture of a", "a", "a drawing of a")
"""Of the sentences about a style."""
WORDS = tuple(dict.fromkeys([*(word for words in KINDS.values() for word in words), *NOUNS, *SUBJECTS]))
"""All words that `draw_templates` may put around a concept."""


@dataclass(frozen=True)
class PromptTemplate:
    """A sentence with a gap for the concept, and what it says without the concept ("" where it says nothing else)."""

    template: str
    neutral: str = ""

    def with_concept(self, concept: str) -> str:
        """The sentence about `concept`; the empty concept leaves the neutral sentence."""
        return self.template.replace("{}", concept) if concept else self.neutral


PLAIN = (PromptTemplate("{}"), PromptTemplate("a {}"), PromptTemplate("a picture of a {}"))
PLAIN_STYLE = (
    PromptTemplate("{}"),
    PromptTemplate("a picture in {}", "a picture"),
    PromptTemplate("a drawing in {}", "a drawing"),
)


def is_style(concept: str) -> bool:
    """Whether a concept is named as a style: "flat style", "the style of Van Gogh"."""
    words = concept.casefold().split()
    return words[-1:] == ["style"] or "style of" in concept.casefold()


def kind_of(concept: str) -> str | None:
    """The kind of attribute that a concept is, or None if it is none of the known ones: then it counts as a thing."""
    return next((kind for kind, words in KINDS.items() if concept.casefold() in words), None)


def siblings(concept: str) -> list[str]:
    """The other attributes of a concept's kind, which are its nearest neighbours; none for a thing."""
    return [word for word in KINDS.get(kind_of(concept) or "", ()) if word != concept.casefold()]


def rivals(words: Iterable[str]) -> frozenset[str]:
    """The attributes that rule one of `words` out: nothing red is blue."""
    return frozenset(other for word in words for other in siblings(word))


def draw_templates(
    concept: str, n: int, generator: torch.Generator, avoid: Collection[str] = ()
) -> list[PromptTemplate]:
    """n templates for a concept: the plain ones first, then with random words around it.

    A thing stands in turn after one attribute, after two, and before a noun. A style stands behind what is drawn in it, which
    has an attribute in every second sentence. An attribute always stands before a noun, in
    turn alone and with an attribute of another kind: one of its own kind would be pushed away with it. The empty concept
    has only the empty template. No sentence says a word to `avoid`, of those that there are in `WORDS`.
    """
    if not concept:
        return [PromptTemplate("", "")] * n
    own_kind = kind_of(concept)

    def allowed(words: Sequence[str]) -> list[str]:
        return [word for word in words if word != concept.casefold() and word not in avoid]

    def word_of(words: Sequence[str]) -> str:
        others = allowed(words) or ["thing"]
        return others[int(torch.randint(len(others), (), generator=generator))]

    def attributes(count: int) -> list[str]:
        """Attributes of different kinds. Of two the first is a colour, which prompts name most often and pictures always
        have."""
        # a kind whose words are all erased at once has none left
        kinds = [kind for kind in KINDS if kind != own_kind and allowed(KINDS[kind])]
        order = [kinds[int(i)] for i in torch.randperm(len(kinds), generator=generator)]
        if count > 1 and own_kind != "colour":
            order.sort(key=lambda kind: kind != "colour")
        return [word_of(KINDS[kind]) for kind in order[:count][::-1]]

    style = is_style(concept)
    chosen = list(PLAIN_STYLE if style else PLAIN)
    for i in range(max(0, n - len(chosen))):
        if style:
            drawn = " ".join([BEGINNINGS[i % len(BEGINNINGS)], *attributes(i % 2), word_of(SUBJECTS)])
            chosen.append(PromptTemplate(f"{drawn} in {{}}", drawn))
            continue
        before = attributes((1 + i) % (3 if own_kind is None else 2))
        noun = [word_of(NOUNS)] if own_kind is not None or not before else []
        words = " ".join(["a", *before, "{}", *noun])
        chosen.append(PromptTemplate(words, " ".join(["a", *before, *(noun or ["thing"])])))
    if n < len(chosen):
        chosen = [chosen[int(i)] for i in torch.randperm(len(chosen), generator=generator)[:n]]
    return chosen
