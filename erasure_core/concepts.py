"""What is to be erased, what it becomes, and what must stay."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

ARROW = "=>"


def _fold(text: str) -> str:
    return " ".join(text.casefold().split())


def check_words(text: str) -> None:
    """Raise ValueError if `text` says nothing: no letter or digit of any script, and no pictograph such as an emoji, which
    text encoders do read."""
    if not any(unicodedata.category(sign)[0] in "LN" or unicodedata.category(sign) == "So" for sign in text):
        raise ValueError(f"the concept {text!r} has no letter, digit or emoji; write it in words")


@dataclass(frozen=True)
class ConceptPair:
    """A target concept and the anchor that it becomes; the anchor "" is the empty prompt.

    Raises ValueError if the target is empty, says the same as the anchor, or one of the two has no words (`check_words`).
    """

    target: str
    anchor: str = ""

    def __post_init__(self) -> None:
        if not self.target.strip():
            raise ValueError(
                f"a concept is empty (its anchor is {self.anchor!r}); write the concept to erase before '{ARROW}'"
            )
        for text in filter(None, (self.target, self.anchor)):
            check_words(text)
        if _fold(self.target) == _fold(self.anchor):
            raise ValueError(
                f"the target {self.target!r} and its anchor {self.anchor!r} say the same, so nothing would change; "
                f"name another anchor, or leave it out for the empty prompt"
            )

    def __str__(self) -> str:
        """The pair as the user writes it."""
        return f"{self.target} {ARROW} {self.anchor}" if self.anchor else self.target


@dataclass(frozen=True)
class ErasureRequest:
    """One erasure: at least one pair, the concepts that the user wants kept, and what else the user linked: pictures of
    the target as latents in model space (n, channels, ...), and a sparse autoencoder.

    Raises ValueError for no pair, a target that is named twice, is also to be retained, or is what another becomes, and
    for a retained line without words. An anchor may be retained.
    """

    pairs: tuple[ConceptPair, ...]
    retain: tuple[str, ...] = ()
    examples: Tensor | None = field(default=None, compare=False, repr=False)
    sae: Any = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self.pairs:
            raise ValueError(
                "no concept to erase: write at least one, one a line, for example 'circle' or 'cat => dog'"
            )
        seen: dict[str, ConceptPair] = {}
        for pair in self.pairs:
            key = _fold(pair.target)
            if key in seen:
                raise ValueError(f"the concept {pair.target!r} is named twice; leave one of the two lines out")
            seen[key] = pair
        for pair in self.pairs:
            other = seen.get(_fold(pair.anchor))
            if other is not None:
                raise ValueError(
                    f"{str(pair)!r} makes a concept into {pair.anchor!r}, which {str(other)!r} erases; name another anchor, "
                    f"or leave one of the two lines out"
                )
        for line in self.retain:
            check_words(line)
            if _fold(line) in seen:
                raise ValueError(
                    f"{line!r} is to be erased and to be retained at once; take it out of one of the two fields"
                )

    @property
    def targets(self) -> tuple[str, ...]:
        """The target prompts, in the order given."""
        return tuple(pair.target for pair in self.pairs)

    def says_target(self, text: str) -> bool:
        """True if `text` is one of the targets, whatever its case and spaces."""
        return _fold(text) in {_fold(target) for target in self.targets}


def lines(text: str) -> list[str]:
    """The non-empty lines of a text field, stripped; a line that starts with # is a comment."""
    stripped = (line.strip() for line in text.splitlines())
    return [line for line in stripped if line and not line.startswith("#")]


def parse_request(concepts: str, retain: str = "") -> ErasureRequest:
    """Read the node's two text fields: `target => anchor`, one a line, and retained concepts, one a line.

    Raises ValueError with the line that is wrong.
    """
    pairs = []
    for line in lines(concepts):
        parts = [part.strip() for part in line.split(ARROW)]
        if len(parts) > 2:
            raise ValueError(f"{line!r} has more than one '{ARROW}'; write one 'target {ARROW} anchor' a line")
        pairs.append(ConceptPair(*parts))
    return ErasureRequest(tuple(pairs), tuple(dict.fromkeys(lines(retain))))
