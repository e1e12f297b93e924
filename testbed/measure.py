"""How well a concept is gone and everything else still there, judged on the model's own pictures."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from playground.drawing import COLOURS, FILLS, LOOK_ALIKES, SHAPES, SYNONYMS

from .playground import Playground

VALUES = {"shape": SHAPES, "colour": tuple(COLOURS), "fill": FILLS}
GROUPS = ("target", "retain", "look_alike", "synonym")
"""The groups of prompts, in order; each has noise of its own."""


@dataclass(frozen=True)
class Prompt:
    """A prompt and what a right picture of it shows."""

    text: str
    shape: str
    colour: str
    fill: str


def factor_of(value: str) -> str:
    """Which factor a word of the playground belongs to."""
    for factor, values in VALUES.items():
        if value in values:
            return factor
    raise ValueError(f"{value!r} is no word of the playground; it knows {', '.join(itertools.chain(*VALUES.values()))}")


def prompts(n: int, seed: int, **allowed: Sequence[str]) -> list[Prompt]:
    """n prompts over evenly shuffled combinations of the allowed shapes, colours and fills (all by default)."""
    shapes, colours, fills = (allowed[factor] if factor in allowed else VALUES[factor] for factor in VALUES)
    everything = list(itertools.product(shapes, colours, fills))
    order = random.Random(seed)
    picked: list[tuple[str, str, str]] = []
    while len(picked) < n:
        order.shuffle(everything)
        picked += everything
    return [Prompt(f"a {fill} {colour} {shape}", shape, colour, fill) for shape, colour, fill in picked[:n]]


@dataclass(frozen=True)
class Scores:
    """Shares in per cent, with the number of pictures behind each group.

    esr1: target prompts whose picture does not show the target; psr1: other values of the target's factor still drawn
    right; look_alike: the same for look-alikes only; rest: each other factor on the target's own prompts; synonym_esr1:
    as esr1, prompted by a synonym; None where the target has no look-alike or synonym. drift is no share: root mean
    square difference of psr1's pictures to the base model's from the same noise, in per cent of the full range; it
    still tells two edits apart where psr1 is 100 for both. worst_drift: that of the value that drifts most.
    """

    esr1: float
    psr1: float
    rest: dict[str, float]
    others: dict[str, float]
    look_alike: float | None
    synonym_esr1: float | None
    drift: float
    worst_drift: float
    n: dict[str, int]

    def row(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


def _share(hits: Sequence[bool]) -> float:
    from concept_erasure.erasure_core.evaluation.proportions import proportion_of

    return proportion_of(hits).per_cent


def evaluate(
    testbed: Playground, model: Any, targets: Sequence[str], *, n: int, seed: int = 0, n_small: int | None = None
) -> dict[str, Scores]:
    """Scores of `model` for each target, with every target out of the retained values.

    n pictures for the target and n for the retained values, `n_small` (n by default) for look-alikes and synonyms.
    """
    drawn: dict[tuple[str, ...], tuple[Tensor, dict[str, list[str]]]] = {}

    def judged(group: Sequence[Prompt], texts: Sequence[str], noise_seed: int) -> tuple[dict[str, list[bool]], Tensor]:
        """Whether each factor of each picture is as the prompt says, and the pictures; each text is drawn only once."""
        key = (str(noise_seed), *texts)
        if key not in drawn:
            pictures = testbed.draw(model, texts, noise_seed)
            drawn[key] = pictures, testbed.judged(pictures)
        pictures, seen = drawn[key]
        right = {
            factor: [value == getattr(prompt, factor) for value, prompt in zip(seen[factor], group, strict=True)]
            for factor in VALUES
        }
        return right, pictures

    return {target: _evaluate_one(testbed, judged, target, targets, n, n_small or n, seed) for target in targets}


def _groups(target: str, erased: Sequence[str], n: int, small: int, seed: int) -> dict[str, list[Prompt]]:
    """The prompts of each group that there is for a target."""
    factor = factor_of(target)
    # every group avoids the other erased values: they have rows of their own
    others = {name: [value for value in values if value not in erased] for name, values in VALUES.items()}
    look_alikes = [value for value in LOOK_ALIKES.get(target, ()) if value not in erased]

    groups = {
        "target": prompts(n, seed, **(others | {factor: [target]})),
        "retain": prompts(n, seed + 1, **others),
        "look_alike": prompts(small, seed + 2, **(others | {factor: look_alikes})) if look_alikes else [],
        "synonym": prompts(small, seed + 3, **(others | {factor: [target]})) if target in SYNONYMS else [],
    }
    return {name: group for name, group in groups.items() if group}


def _evaluate_one(
    testbed: Playground,
    judged: Callable[..., tuple[dict[str, list[bool]], Tensor]],
    target: str,
    erased: Sequence[str],
    n: int,
    small: int,
    seed: int,
) -> Scores:
    groups = _groups(target, erased, n, small, seed)
    noise = {name: seed + 1000 + place for place, name in enumerate(GROUPS)}
    texts = {name: [prompt.text for prompt in group] for name, group in groups.items()}
    if "synonym" in texts:
        texts["synonym"] = [text.replace(target, SYNONYMS[target]) for text in texts["synonym"]]
    found = {name: judged(group, texts[name], noise[name]) for name, group in groups.items()}
    shares = {name: {factor: _share(right[factor]) for factor in VALUES} for name, (right, _) in found.items()}

    base = testbed.draw_base(texts["retain"], noise["retain"])
    factor = factor_of(target)
    drift, worst_drift = _drifts(found["retain"][1], base, [getattr(prompt, factor) for prompt in groups["retain"]])
    others = [name for name in VALUES if name != factor]
    return Scores(
        esr1=round(100 - shares["target"][factor], 2),
        psr1=shares["retain"][factor],
        rest={name: shares["target"][name] for name in others},
        others={name: shares["retain"][name] for name in others},
        look_alike=shares["look_alike"][factor] if "look_alike" in shares else None,
        synonym_esr1=round(100 - shares["synonym"][factor], 2) if "synonym" in shares else None,
        drift=drift,
        worst_drift=worst_drift,
        n={name: len(group) for name, group in groups.items()},
    )


def _drifts(pictures: Tensor, base: Tensor, values: Sequence[str]) -> tuple[float, float]:
    """How far pictures have moved from the base model's: all of them, and those of the value that moved most."""
    from concept_erasure.erasure_core.evaluation.drift import mean_square, per_cent

    moved = mean_square(pictures, base)
    of_value = [moved[[value == one for one in values]].mean() for value in set(values)]
    return per_cent(float(moved.mean())), per_cent(float(max(of_value)))
