"""The erasures on the picture book, and the prompts that measure them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from playground.picture_book.sources import STYLES
from playground.picture_book.things import Thing
from playground.picture_book.words import SYNONYMS, TEMPLATES, caption

STYLE_WORDS = tuple(style.word for style in STYLES)
TARGET, SYNONYM, LOOK_ALIKE, UNRELATED = "target", "synonym", "look-alike", "unrelated"
MEMBER = "member"
GROUPS = (TARGET, SYNONYM, MEMBER, LOOK_ALIKE, UNRELATED)


@dataclass(frozen=True)
class Case:
    """One erasure: the words that are erased, and whether they are things, styles or the word for a subgroup.

    `one_by_one`: each word in a run of its own, on the model that the run before it left.
    """

    name: str
    targets: tuple[str, ...]
    kind: str = "thing"
    one_by_one: bool = False


OBJECTS = ("cat", "violin", "bicycle", "hamburger", "strawberry", "doughnut", "airplane", "turtle")
"""Of eight subgroups; cat (lion, tiger, leopard) and violin (guitar, banjo) have near neighbours."""
TEN = ("dog", "owl", "shark", "rose", "carrot", "house", "jeans", "trumpet", "hammer", "chair")
IN_A_ROW = ("cat", "violin", "bicycle")
CATEGORY = ("fruit", "food-fruit")
CASES = (
    *(Case(name, (name,)) for name in OBJECTS),
    *(Case(word, (f"{word} style",), "style") for word in STYLE_WORDS),
    Case("fruit", (CATEGORY[0],), "category"),
    Case("ten in one run", TEN),
    Case("three in a row", IN_A_ROW, one_by_one=True),
)


@dataclass(frozen=True)
class Prompt:
    """A prompt, and what a right picture of it shows: a thing (any of several, for a category), and a style or "" for any."""

    text: str
    things: tuple[str, ...]
    style: str


def prompts_of(case: Case, things: Sequence[Thing], counts: dict[str, int], seed: int) -> dict[str, list[Prompt]]:
    """The prompts of each group that the case has, `counts` of each, every choice drawn from `seed`.

    A thing's look-alikes are the others of its subgroup; for a style they are the other styles. Half of all prompts about
    things name a style.
    """
    rng = random.Random(seed)
    names = {thing.name for thing in things}
    if case.kind == "style":
        return _of_style(case, sorted(names), counts, rng)
    subgroups = {
        thing.subgroup for thing in things if thing.name in case.targets or thing.subgroup == _erased_subgroup(case)
    }
    members = tuple(thing.name for thing in things if thing.subgroup == _erased_subgroup(case))
    near = [t.name for t in things if t.subgroup in subgroups and t.name not in (*case.targets, *members)]
    far = [t.name for t in things if t.subgroup not in subgroups]
    asked: dict[str, list[tuple[str, tuple[str, ...]]]] = {
        TARGET: [(word, members or (word,)) for word in case.targets],
        SYNONYM: [(word, (target,)) for target in case.targets for word in SYNONYMS.get(target, ())],
        MEMBER: [(word, (word,)) for word in members],
        LOOK_ALIKE: [(word, (word,)) for word in near],
        UNRELATED: [(word, (word,)) for word in far],
    }
    return {group: _asked(pairs, counts[group], rng) for group, pairs in asked.items() if pairs}


def _asked(pairs: Sequence[tuple[str, tuple[str, ...]]], n: int, rng: random.Random) -> list[Prompt]:
    """n prompts for words, each beside what its picture should show; half of them name a style."""
    chosen = [pairs[i] for i in _spread(len(pairs), n, rng)]
    return [_prompt(word, shows, rng.choice((rng.choice(STYLE_WORDS), "")), rng) for word, shows in chosen]


def _erased_subgroup(case: Case) -> str:
    return CATEGORY[1] if case.kind == "category" else ""


def _of_style(case: Case, names: Sequence[str], counts: dict[str, int], rng: random.Random) -> dict[str, list[Prompt]]:
    erased = case.targets[0].split()[0]
    others = [word for word in STYLE_WORDS if word != erased]
    styles = {TARGET: [erased], LOOK_ALIKE: others, UNRELATED: [""]}
    return {
        group: [_prompt(names[i], (names[i],), rng.choice(words), rng) for i in _spread(len(names), counts[group], rng)]
        for group, words in styles.items()
    }


def _prompt(word: str, shows: tuple[str, ...], style: str, rng: random.Random) -> Prompt:
    return Prompt(caption(rng.choice(TEMPLATES), word, style), shows, style)


def _spread(choices: int, n: int, rng: random.Random) -> list[int]:
    """n indices below `choices`, each as often as the others, in random order."""
    rows: list[int] = []
    while len(rows) < n:
        rows += rng.sample(range(choices), choices)
    return rows[:n]
