"""Which label of a judge means a word, and which one a sentence says."""

from __future__ import annotations

import re
from collections.abc import Iterable


def spaced(text: str) -> str:
    """The text with spaces for underscores, as `Van_Gogh` is said in a prompt."""
    return " ".join(text.replace("_", " ").split())


def same(one: str, other: str) -> bool:
    """True if two names differ at most in case and underscores."""
    return spaced(one).casefold() == spaced(other).casefold()


def says(text: str, name: str) -> str:
    """The name as a text says it, as whole words and perhaps in the plural, whatever the case; "" if it does not."""
    text, name = spaced(text), spaced(name)
    if not name or name.casefold() not in text.casefold():  # a judge has a thousand labels, a table as many prompts
        return ""
    match = re.search(rf"(?<!\w)({re.escape(name)})(?:s|es)?(?!\w)", text, re.IGNORECASE)
    return match[1] if match else ""


def names_of(label: str) -> list[str]:
    """The names that a label lists with commas, and the label itself first."""
    return list(dict.fromkeys([label, *(name.strip() for name in label.split(","))]))


def distance(label: str, word: str) -> int | None:
    """How far a label is from meaning a word, or None if it does not: 0 if it is the word, 1 if but for case and
    underscores, 2 and 3 if it lists the word so among several names.

    ImageNet has "Cardigan, Cardigan Welsh corgi" before "cardigan", and "harmonica, mouth organ, harp, mouth harp" before
    "harp": the first label that lists a word need not be the one that means it.
    """
    word, names = word.strip(), names_of(label)
    met = (label == word, same(label, word), word in names, any(same(name, word) for name in names))
    return met.index(True) if True in met else None


def meaning(labels: Iterable[str], word: str) -> tuple[int, str] | None:
    """The label that is nearest to meaning a word, the first of several, with its `distance`; None if none does."""
    matches = [(far, label) for label in labels if (far := distance(label, word)) is not None]
    return min(matches, key=lambda one: one[0], default=None)


def said_in(labels: Iterable[str], text: str) -> str | None:
    """The label that a sentence says as whole words: of the longest name if it says several, and of several labels with
    that name the one that means it."""
    matches = [
        (len(name), -(distance(label, spelling) or 0), label)
        for label in labels
        for name in names_of(label)
        if (spelling := says(text, name))
    ]
    return max(matches, key=lambda one: one[:2])[2] if matches else None
