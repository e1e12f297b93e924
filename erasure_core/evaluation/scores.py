"""The field's scores from a judge's verdicts: ESR-k, PSR-k, and the rest of the prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .drift import Drift, drift_of
from .judges.detector import Found
from .judges.judge import ConceptJudge
from .prompts import GONE, GROUPS, KEPT, TARGET, Prompt
from .proportions import Proportion, proportion_of

RANKS = (1, 5)
Verdict = Mapping[str, tuple[str, ...]]
"""By factor, the labels that a judge gives to one picture, the likeliest first."""


@dataclass(frozen=True)
class Expected:
    """The content of a right picture: the concept's own factor and label, and the labels of the rest of the prompt."""

    factor: str
    label: str
    rest: Mapping[str, str]


def expected_of(prompt: Prompt, judge: ConceptJudge, prefer: str) -> Expected | None:
    """The verdict that the judge should give, or None if the prompt says nothing that it knows, or shows something without
    a label. Without a stated concept the label is the one that the text says, of the factor `prefer` if it says one of that."""
    labels = {factor.name: label for factor in judge.factors if (label := factor.said_in(prompt.text))}
    for word in prompt.beside:
        labels |= _label_of(word, judge)
    stated = labels
    if prompt.concept:
        stated = _label_of(prompt.concept, judge)
    elif prefer in labels:
        stated = {prefer: labels[prefer]}
    if not stated:
        return None
    name, label = next(iter(stated.items()))
    return Expected(name, label, {other: value for other, value in labels.items() if other != name})


def _label_of(word: str, judge: ConceptJudge) -> dict[str, str]:
    """The label that means a word, by its factor; empty if the judge has none."""
    factor = judge.factor_of(word)
    label = factor.label_of(word) if factor else None
    return {factor.name: label} if factor and label else {}


@dataclass(frozen=True)
class Pair:
    """One prompt drawn by both models from one seed: verdicts (None without a judge), mean squared differences, and what a
    detector found in the base and the erased model's picture."""

    prompt: Prompt
    seed: int
    latents: float
    pixels: float
    expected: Expected | None = None
    base: Verdict | None = None
    erased: Verdict | None = None
    base_found: Found = ()
    erased_found: Found = ()


@dataclass(frozen=True)
class ProportionRow:
    """One score of one group, for the base and the erased model."""

    group: str
    score: str
    base: Proportion
    erased: Proportion


@dataclass(frozen=True)
class DriftRow:
    """How far a group's pictures have moved."""

    group: str
    space: str
    drift: Drift


def proportion_rows(pairs: Sequence[Pair], ranks_of: Mapping[str, int]) -> list[ProportionRow]:
    """The scores of AP, arXiv 2410.15618, section 5.1: ESR-k, the share of pictures of a concept that should be gone
    whose k likeliest labels are without it; PSR-k, the share of the others whose k likeliest labels hold theirs. Then, a
    factor, how often what else the prompt says is drawn right.

    `ranks_of` gives the number of labels of each factor: k is only used where a factor has more than k of them.
    """
    rows = []
    for group in (*GONE, *KEPT):
        mine = [(pair, pair.expected) for pair in pairs if pair.prompt.group == group and pair.expected]
        for k in RANKS:
            ranked = [(pair, expected) for pair, expected in mine if ranks_of[expected.factor] > k]
            if ranked:
                gone = group in GONE
                base, erased = (_top(ranked, model, k, gone) for model in ("base", "erased"))
                rows.append(ProportionRow(group, f"{'ESR' if gone else 'PSR'}-{k}", base, erased))
        if group == TARGET or group in KEPT:
            rows += _rest(group, mine)
    return rows


def _top(pairs: Sequence[tuple[Pair, Expected]], model: str, k: int, gone: bool) -> Proportion:
    hits = [expected.label in getattr(pair, model)[expected.factor][:k] for pair, expected in pairs]
    return proportion_of([hit != gone for hit in hits])


def _rest(group: str, pairs: Sequence[tuple[Pair, Expected]]) -> list[ProportionRow]:
    rows = []
    for factor in dict.fromkeys(name for _, expected in pairs for name in expected.rest):
        stating = [(pair, expected.rest[factor]) for pair, expected in pairs if factor in expected.rest]
        right = [_right(pair, factor, label) for pair, label in stating]
        base, erased = (proportion_of([one[which] for one in right]) for which in (0, 1))
        rows.append(ProportionRow(group, f"rest of the prompt: {factor}", base, erased))
    return rows


UA, IRA, CRA = "UA", "IRA", "CRA"


def canvas_rows(pairs: Sequence[Pair], homes: Sequence[str]) -> list[ProportionRow]:
    """The scores of UnlearnCanvas, arXiv 2402.11846, section 3, by the likeliest label. Unlearning accuracy UA: the share of
    target pictures that are not judged as the target. Of the pictures that should stay, in-domain retain accuracy IRA: how
    often a factor in `homes`, those of the targets, is right; cross-domain retain accuracy CRA: how often any other factor
    is. A score of which nothing was asked is left out."""
    verdicts: dict[str, list[tuple[bool, bool]]] = {UA: [], IRA: [], CRA: []}
    for pair in pairs:
        if pair.expected is None or pair.prompt.group not in (TARGET, *KEPT):
            continue
        if pair.prompt.group == TARGET:
            base, erased = _right(pair, pair.expected.factor, pair.expected.label)
            verdicts[UA].append((not base, not erased))
            continue
        for factor, label in ((pair.expected.factor, pair.expected.label), *pair.expected.rest.items()):
            verdicts[IRA if factor in homes else CRA].append(_right(pair, factor, label))
    return [
        ProportionRow("", name, *(proportion_of([one[who] for one in found]) for who in (0, 1)))
        for name, found in verdicts.items()
        if found
    ]


def _right(pair: Pair, factor: str, label: str) -> tuple[bool, bool]:
    """Whether the label is the likeliest one for the base and for the erased model's picture."""
    return _likeliest(pair.base, factor) == label, _likeliest(pair.erased, factor) == label


def _likeliest(verdict: Verdict | None, factor: str) -> str:
    return verdict[factor][0] if verdict else ""


def drift_rows(pairs: Sequence[Pair]) -> list[DriftRow]:
    """The drift of every group that was drawn, in latents and in pixels."""
    rows = []
    for group in GROUPS:
        mine = [pair for pair in pairs if pair.prompt.group == group]
        for space in ("latents", "pixels") if mine else ():
            rows.append(DriftRow(group, space, drift_of([getattr(pair, space) for pair in mine])))
    return rows
