"""The words of the picture book: other names for its things, its captions, and how each is said."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from .sources import STYLES

if TYPE_CHECKING:
    from comfy.sd1_clip import SDTokenizer

_CHOSEN = json.loads((Path(__file__).parent / "names.json").read_text(encoding="utf-8"))
LEFT_OUT = frozenset(_CHOSEN["left_out"])
"""Names that do not say what is drawn (a cup for mate, a caterpillar for bug), or say nearly what another says (fog and
cloud)."""
SYNONYMS: dict[str, list[str]] = _CHOSEN["synonyms"]
"""Words that mean what a name means, chosen by hand: the emoji data's own tags are mostly associations (mane for lion)."""
CATEGORIES: dict[str, str] = _CHOSEN["categories"]
"""By subgroup, the word for all its things."""
TEMPLATES = ("{}", "{a}", "a drawing of {a}")
STYLED = " in {} style"
STYLE_LEFT_OUT, EMPTY, CATEGORY, SYNONYM = 0.15, 0.1, 0.12, 0.3
"""How often a caption says no style, nothing at all, its category in place of a thing, and a synonym in place of a name."""


def phrase(name: str) -> str:
    """A name with its article: a cat, an owl, but jeans."""
    last = name.split()[-1]
    if last.endswith("s") and not last.endswith(("ss", "us", "is")):
        return name
    return f"{'an' if name[0] in 'aeio' else 'a'} {name}"


def caption(template: str, name: str, style: str = "") -> str:
    """A template filled with a name and, unless it is "", a style's word."""
    return template.format(name, a=phrase(name)) + (STYLED.format(style) if style else "")


def random_caption(name: str, category: str, style: str, generator: torch.Generator) -> str:
    """One caption of a picture, with words left out and replaced at random; a thing without a category has "" for it."""

    def chance(probability: float) -> bool:
        return float(torch.rand((), generator=generator)) < probability

    def pick(choices: Sequence[str]) -> str:
        return choices[int(torch.randint(len(choices), (), generator=generator))]

    if chance(EMPTY):
        return ""
    said = name
    if category and chance(CATEGORY):
        said = category
    elif SYNONYMS.get(name) and chance(SYNONYM):
        said = pick(SYNONYMS[name])
    return caption(pick(TEMPLATES), said, "" if chance(STYLE_LEFT_OUT) else style)


def every_caption(names: Iterable[str], categories: Iterable[str]) -> list[str]:
    """All captions that `random_caption` can give for these, the empty one first."""
    said = dict.fromkeys(word for name in names for word in (name, *SYNONYMS.get(name, ())))
    said.update(dict.fromkeys(category for category in categories if category))
    styles = ("", *(style.word for style in STYLES))
    return ["", *(caption(template, word, style) for template in TEMPLATES for word in said for style in styles)]


@cache
def _tokenizer() -> SDTokenizer:
    from comfy.sd1_clip import SDTokenizer

    return SDTokenizer()


def token_ids(texts: Sequence[str]) -> torch.Tensor:
    """Tokens (n, 77) of texts, as ComfyUI's own CLIP-L tokenizer gives them."""
    return torch.tensor([[token for token, _ in _tokenizer().tokenize_with_weights(text)[0]] for text in texts])


def is_one_token(word: str) -> bool:
    """Whether a word is a single token, between the tokens that begin and end every text."""
    tokens = token_ids([word])[0]
    return bool(tokens[2] == tokens[-1])
