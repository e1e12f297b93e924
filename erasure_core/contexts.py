"""The sentences in which a concept is put while it is erased or preserved.

Nobody prompts with a bare word. An edit that was learned on the bare word alone, while its neighbours are preserved, fits
that one prompt and leaves "a small striped circle" as it was. So the target is also shown in short sentences, and there
it is pushed towards the same sentence without it: what else the sentence says is not to be erased.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

COLOURS = ("red", "green", "blue", "yellow", "black", "white")
OTHER_COLOURS = ("brown", "orange", "pink", "purple", "gray", "grey", "teal", "cyan", "gold", "silver", "violet")
ATTRIBUTES = (
    "small", "large", "bright", "dark", "striped", "dotted", "old", "wooden", "golden", "shiny",
)  # fmt: skip
NOUNS = ("thing", "object", "shape", "house", "dress", "car", "bird", "tree")


@dataclass(frozen=True)
class Context:
    """A sentence with a gap for the concept, and what it says without it ("" where it says nothing else)."""

    template: str
    neutral: str = ""

    def with_concept(self, concept: str) -> str:
        """The sentence about `concept`; the empty concept leaves the neutral sentence."""
        return self.template.replace("{}", concept) if concept else self.neutral


PLAIN = (Context("{}"), Context("a {}"), Context("a picture of a {}"))


def draw_contexts(concept: str, n: int, generator: torch.Generator) -> list[Context]:
    """n contexts for a concept: the plain ones first, then in turn one attribute before it, two, and a noun after it, with
    random words. A target that is a colour stands before a noun and never beside another colour, which would be pushed
    away with it. The empty concept has only the empty context."""
    if not concept:
        return [Context("", "")] * n
    is_colour = concept.casefold() in COLOURS + OTHER_COLOURS
    attributes = ATTRIBUTES if is_colour else COLOURS + ATTRIBUTES

    def word_of(words: tuple[str, ...]) -> str:
        others = [word for word in words if word != concept.casefold()]
        return others[int(torch.randint(len(others), (), generator=generator))]

    chosen = list(PLAIN)
    for i in range(max(0, n - len(PLAIN))):
        before = " ".join(word_of(attributes) for _ in range((1 + i) % 3))
        noun = word_of(NOUNS) if is_colour or not before else ""
        words = f"{before} {{}} {noun}".split()
        chosen.append(Context(f"a {' '.join(words)}", f"a {before} {noun or 'thing'}".replace("  ", " ")))
    if n < len(chosen):
        chosen = [chosen[int(i)] for i in torch.randperm(len(chosen), generator=generator)[:n]]
    return chosen
