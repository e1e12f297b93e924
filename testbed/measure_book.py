"""What the picture book draws after an erasure, group by group, as its judges see it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from playground.picture_book.sources import STYLES
from playground.picture_book.things import Thing
from playground.picture_book.weights import stored_things
from playground.picture_book.words import SYNONYMS, TEMPLATES, caption

from .playground import Playground

STYLE_WORDS = tuple(style.word for style in STYLES)
TARGET, SYNONYM, LOOK_ALIKE, UNRELATED = "target", "synonym", "look-alike", "unrelated"
MEMBER = "member"
GROUPS = (TARGET, SYNONYM, MEMBER, LOOK_ALIKE, UNRELATED)
CATEGORY = ("fruit", "food-fruit")
"""The word for a subgroup, and the subgroup."""


@dataclass(frozen=True)
class Case:
    """One erasure: the words that are erased, and whether they are things, styles or the word for a subgroup.

    `one_by_one`: each word in a run of its own, on the model that the run before it left.
    """

    name: str
    targets: tuple[str, ...]
    kind: str = "thing"
    one_by_one: bool = False


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


def judged_group(testbed: Playground, model: Any, asked: Sequence[Prompt], seed: int) -> dict[str, Any]:
    """Counts of what the judges find in one group's pictures, and the drift from the base model's (per cent)."""
    from concept_erasure.erasure_core.evaluation.drift import mean_square, per_cent

    texts = [prompt.text for prompt in asked]
    base = testbed.draw_base(texts, seed)
    pictures = base if model is testbed.model else testbed.draw(model, texts, seed)
    answers = testbed.ranked(pictures, 5)
    styled = [(prompt.style, row[0]) for prompt, row in zip(asked, answers["style"], strict=True) if prompt.style]
    pairs = list(zip(asked, answers["thing"], strict=True))
    return {
        "n": len(asked),
        "top1": sum(row[0] in prompt.things for prompt, row in pairs),
        "top5": sum(any(name in row for name in prompt.things) for prompt, row in pairs),
        "styled": len(styled),
        "style": sum(asked_for == seen for asked_for, seen in styled),
        "drift": round(per_cent(float(mean_square(pictures, base).mean())), 3),
    }


@dataclass(frozen=True)
class BookScores:
    """Shares in per cent. esr1: the targets' prompts whose picture shows no target; psr1: things of other subgroups that
    are drawn right; look_alike: the same for those of the targets' own subgroups, None if all of them are targets."""

    esr1: float
    psr1: float
    look_alike: float | None


def evaluate(
    testbed: Playground, model: Any, targets: Sequence[str], *, n: int, seed: int = 0
) -> dict[str, BookScores]:
    """Scores of `model` for the things in `targets` together, on n pictures a figure; the key names them all. Raises
    ValueError for a target that is no thing of the book."""
    things = stored_things()
    unknown = set(targets) - {thing.name for thing in things}
    if unknown:
        raise ValueError(f"{', '.join(sorted(unknown))}: no thing of the picture book; its names are in things.json")
    asked = prompts_of(Case("", tuple(targets)), things, dict.fromkeys(GROUPS, n), seed)
    right = {}
    for group in {TARGET, UNRELATED, LOOK_ALIKE} & set(asked):
        found = judged_group(testbed, model, asked[group], seed + GROUPS.index(group))
        right[group] = 100 * found["top1"] / found["n"]
    return {", ".join(targets): BookScores(100 - right[TARGET], right[UNRELATED], right.get(LOOK_ALIKE))}
