"""An erasure request: targets, their anchors, and the retained concepts."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

ARROW, INSIDE = "=>", "<"
_SHAFTS, _TIPS = "=\uff1d\ufe66~\uff5e\\-\u2010\u2011\u2013\u2014\u2015\u2212\uff0d", ">\uff1e\ufe65"
_TYPED = re.compile(f"(?:\\|?[{_SHAFTS}]+|\\|)(?:[{_TIPS}]|&gt;)")
_DRAWN = re.compile(
    "[\u2190-\u21ff\u2794-\u27be\u27f0-\u27ff\u2900-\u297f\u2b00-\u2bff\uffe9-\uffec\U0001f800-\U0001f8ff]\ufe0f?"
)
_PART_OF = re.compile("\\s[<\uff1c\ufe64]\\s")
_TOKEN = re.compile(r"<[^<>\s]+>")
_LEFT_OVER = re.compile(f"[<>{_TIPS}\uff1c\ufe64]|(?<!\\S)[=\uff1d]+(?!\\S)|&[lg]t;")


def _fold(text: str) -> str:
    return " ".join(text.casefold().split())


def _is_drawn(sign: str) -> bool:
    """True for a drawn arrow such as \u2192 that points to the right and nowhere else."""
    name = unicodedata.name(sign[0], "")
    return "ARROW" in name and "RIGHTWARDS" in name and "LEFTWARDS" not in name


def arrow_parts(line: str) -> list[str]:
    """The parts of a line between its arrows, stripped. `=>` is an arrow, and so is whatever else people write or paste
    for it: -> --> ==> \u2192 \u21d2 \uff1d\uff1e. A hyphen within a word is none."""
    line = _DRAWN.sub(lambda found: ARROW if _is_drawn(found[0]) else found[0], line)
    return [part.strip() for part in _TYPED.sub(ARROW, line).split(ARROW)]


def _stray(text: str) -> str:
    """The first sign in `text` that looks like an arrow or a comparison, or "" if there is none. `<cat-toy>`, the name of
    a learned word, has none."""
    text = _TOKEN.sub("", text)
    drawn = (found[0] for found in _DRAWN.finditer(text) if "ARROW" in unicodedata.name(found[0][0], ""))
    found = _TYPED.search(text) or _LEFT_OVER.search(text)
    return next(drawn, found[0] if found else "")


def check_words(text: str) -> None:
    """Raise ValueError if `text` says nothing: no letter or digit of any script, and no pictograph such as an emoji, which
    text encoders do read."""
    if not any(unicodedata.category(sign)[0] in "LN" or unicodedata.category(sign) == "So" for sign in text):
        raise ValueError(f"the concept {text!r} has no letter, digit or emoji; write it in words")


def check_concept(text: str) -> None:
    """Raise ValueError if `text` has no words (`check_words`), or holds an arrow: it is one concept, not two."""
    check_words(text)
    sign = _stray(text)
    if sign:
        raise ValueError(
            f"{text!r} is to be one concept, and holds {sign!r}; in concepts write 'target {ARROW} what it becomes' or "
            f"'target {INSIDE} wider concept', a space on either side, and everywhere else one concept a line, in words"
        )


@dataclass(frozen=True)
class ConceptPair:
    """A target concept and the anchor that it becomes; the anchor "" is the empty prompt.

    `inside` says that the anchor is a wider concept of which the target is a part, `red circle < circle`: the wider
    concept stays, and the target is pushed away from it alone (ESD's `erase_from`, `trained.Training.around`).

    Raises ValueError if the target is empty, says the same as the anchor, one of the two is no concept (`check_concept`),
    or a target inside a wider concept does not say that concept.
    """

    target: str
    anchor: str = ""
    inside: bool = False

    def __post_init__(self) -> None:
        if not self.target.strip():
            raise ValueError(
                f"a concept is empty (its anchor is {self.anchor!r}); write the concept to erase before '{ARROW}'"
            )
        for text in filter(None, (self.target, self.anchor)):
            check_concept(text)
        if _fold(self.target) == _fold(self.anchor):
            raise ValueError(
                f"the target {self.target!r} and its anchor {self.anchor!r} say the same, so nothing would change; "
                f"name another anchor, or leave it out for the empty prompt"
            )
        if self.inside and not _says(self.target, self.anchor):
            raise ValueError(
                f"{str(self)!r}: the target must say the wider concept {self.anchor!r}, so that it is plain what is inside; "
                f"write for example '{self.anchor} with {self.target} {INSIDE} {self.anchor}'"
            )

    def __str__(self) -> str:
        """The pair as the user writes it."""
        return f"{self.target} {INSIDE if self.inside else ARROW} {self.anchor}" if self.anchor else self.target

    @property
    def neutral(self) -> str:
        """The prompt for "not the target" when it is pushed away: the wider concept, or the empty prompt."""
        return self.anchor if self.inside else ""


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

        for pair in self.pairs:  # "cat => dog" beside "dog": cats would become what is erased
            other = seen.get(_fold(pair.anchor))
            if other is not None:
                raise ValueError(
                    f"{str(pair)!r} makes a concept into {pair.anchor!r}, which {str(other)!r} erases; name another anchor, "
                    f"or leave one of the two lines out"
                )

        for line in self.retain:
            check_concept(line)
            if _fold(line) in seen:
                raise ValueError(
                    f"{line!r} is to be erased and to be retained at once; take it out of one of the two fields"
                )

    @property
    def targets(self) -> tuple[str, ...]:
        """The target prompts, in the order given."""
        return tuple(pair.target for pair in self.pairs)

    @property
    def wider(self) -> tuple[str, ...]:
        """The wider concepts that targets are inside of, each once."""
        return tuple(dict.fromkeys(pair.anchor for pair in self.pairs if pair.inside))

    @property
    def told_apart_by(self) -> frozenset[str]:
        """The words by which targets differ from the wider concepts that they are inside of: a sentence about "circle" that
        says "red" is about the target "red circle"."""
        pairs = [(_fold(pair.target).split(), _fold(pair.anchor).split()) for pair in self.pairs if pair.inside]
        return frozenset(word for target, wider in pairs for word in target if word not in wider)

    def says_target(self, text: str) -> bool:
        """True if `text` is one of the targets, whatever its case and spaces."""
        return _fold(text) in {_fold(target) for target in self.targets}


def _says(text: str, words: str) -> bool:
    """True if `text` says `words`: whole words in scripts that have spaces between them, and anywhere in others."""
    text, words = _fold(text), _fold(words)
    return f" {words} " in f" {text} " or (not words.isascii() and words in text)


def lines(text: str) -> list[str]:
    """The non-empty lines of a text field, stripped; a line that starts with # is a comment."""
    stripped = (line.strip() for line in text.splitlines())
    return [line for line in stripped if line and not line.startswith("#")]


def parse_request(concepts: str, retain: str = "") -> ErasureRequest:
    """Read the node's two text fields: `target`, `target => anchor` or `target < wider concept`, one a line, and retained
    concepts, one a line. Wider concepts are retained.

    Raises ValueError with the line that is wrong.
    """
    pairs = tuple(_pair(line) for line in lines(concepts))
    wider = [pair.anchor for pair in pairs if pair.inside]
    return ErasureRequest(pairs, tuple(dict.fromkeys([*lines(retain), *wider])))


def check_request(concepts: str | None, retain: str | None = None) -> None:
    """Raise ValueError as `parse_request` does; a field that is not known yet is None."""
    if concepts is not None:
        parse_request(concepts, retain or "")
    for line in lines(retain or ""):
        check_concept(line)


def _pair(line: str) -> ConceptPair:
    parts, inside = arrow_parts(line), _PART_OF.split(f" {line} ")
    if len(parts) > 2:
        raise ValueError(f"{line!r} has more than one '{ARROW}'; write one 'target {ARROW} anchor' a line")
    if len(inside) == 1:
        return ConceptPair(parts[0], parts[1] if len(parts) == 2 else "")
    if len(parts) > 1 or len(inside) > 2 or not all(part.strip() for part in inside):
        raise ValueError(
            f"{line!r} is not understood; write 'target {INSIDE} wider concept' with one '{INSIDE}' and no arrow: the target "
            f"becomes the wider concept"
        )
    return ConceptPair(*(part.strip() for part in inside), inside=True)
