"""What is to be erased, what it becomes, and what must stay."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

ARROW = "=>"


def _fold(text: str) -> str:
    return " ".join(text.casefold().split())


@dataclass(frozen=True)
class ConceptPair:
    """A target concept and the anchor that it becomes; the anchor "" is the empty prompt.

    Raises ValueError if the target is empty or says the same as the anchor.
    """

    target: str
    anchor: str = ""

    def __post_init__(self) -> None:
        if not self.target.strip():
            raise ValueError(
                f"a concept is empty (its anchor is {self.anchor!r}); write the concept to erase before '{ARROW}'"
            )
        if _fold(self.target) == _fold(self.anchor):
            raise ValueError(
                f"the target {self.target!r} and its anchor {self.anchor!r} say the same, so nothing would change; "
                f"name another anchor, or leave it out for the empty prompt"
            )


@dataclass(frozen=True)
class ErasureRequest:
    """One erasure: at least one pair, the concepts that the user wants kept, and what else the user linked: pictures of
    the target as latents in model space (n, channels, ...), and a sparse autoencoder.

    Raises ValueError for no pair, a target named twice, or a target that is also to be retained.
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
        seen: dict[str, str] = {}
        for pair in self.pairs:
            key = _fold(pair.target)
            if key in seen:
                raise ValueError(f"the concept {pair.target!r} is named twice; leave one of the two lines out")
            seen[key] = pair.target
        for line in self.retain:
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
