"""A judge: questions about a picture, each with its labels, asked for the concepts of an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .detector import Detector, Found
from .judge_folder import Accuracy
from .labels import meaning, said_in

TOP = 5
AT_ONCE = 32


@dataclass(frozen=True)
class Factor:
    """One question that a judge answers. `score` gives (n, labels) for images (n, height, width, 3) in [0, 1]. `near` are
    words for other concepts where the labels are none."""

    name: str
    labels: tuple[str, ...]
    score: Callable[[Tensor], Tensor]
    accuracy: Accuracy | None = None
    near: tuple[str, ...] = ()

    def label_of(self, concept: str) -> str | None:
        """The label that means `concept`: the one that is this word, else the first that lists it among several with
        commas, whatever the case."""
        found = meaning(self.labels, concept)
        return found[1] if found else None

    def others(self, concept: str) -> list[str]:
        """The other possible answers, by the first name of each label."""
        asked = self.label_of(concept)
        if self.near:
            return list(self.near)
        return [label.split(",")[0].strip() for label in self.labels if label != asked]

    def said_in(self, text: str) -> str | None:
        """The label that a prompt says as whole words, the longest name if it says several."""
        return said_in(self.labels, text)


@dataclass(frozen=True)
class Look:
    """The verdict on one picture: by factor, its likeliest labels, the likeliest first (None without a judge); and
    what a detector found."""

    verdict: dict[str, tuple[str, ...]] | None
    found: Found = ()


@dataclass(frozen=True)
class ConceptJudge:
    """A judge of one or more factors. `labelled` must be asked before a zero-shot judge is used. A judge with a `detector`
    has one factor, whose scores are the detector's."""

    name: str
    factors: tuple[Factor, ...]
    open: Callable[[Sequence[str]], Factor] | None = None
    detector: Detector | None = None

    def labelled(self, concepts: Sequence[str], more: Sequence[str] = ()) -> ConceptJudge:
        """A judge that knows these concepts: the judge itself, or a zero-shot judge that chooses among them and `more`,
        which a classifier need not know.

        Raises ValueError if a classifier has no label for one, or a zero-shot judge gets fewer than two.
        """
        wanted = list(dict.fromkeys(concept for concept in concepts if concept))
        if self.open is not None:
            wanted = list(dict.fromkeys([*wanted, *more]))
            if len(wanted) < 2:
                raise ValueError(
                    f"the zero-shot judge {self.name!r} chooses among the concepts of the prompts, and there is only "
                    f"{wanted!r}; add look_alikes, or retain_prompts with '=> concept'"
                )
            return replace(self, factors=(self.open(wanted),), open=None)
        for concept in wanted:
            if self.factor_of(concept) is None:
                known = [label for factor in self.factors for label in factor.labels]
                shown = ", ".join(known[:20]) + (f" and {len(known) - 20} more" if len(known) > 20 else "")
                raise ValueError(
                    f"the judge {self.name!r} has no label for {concept!r}. Write 'prompt => label' with one that it has "
                    f"({shown}), or choose a judge that knows the concept"
                )
        return self

    def factor_of(self, concept: str) -> Factor | None:
        """The factor with the label that means `concept` best, the first of several."""
        matches = [(known[0], factor) for factor in self.factors if (known := meaning(factor.labels, concept))]
        return min(matches, key=lambda one: one[0])[1] if matches else None

    @torch.no_grad()
    def look(self, pictures: Tensor, k: int = TOP) -> list[Look]:
        """The verdict on each picture (n, height, width, 3), with k labels of each factor."""
        found = self.detector.find(pictures) if self.detector else [()] * len(pictures)
        verdicts: list[dict[str, tuple[str, ...]]] = [{} for _ in found]
        for factor in self.factors:
            scores = self.detector.scores(found) if self.detector else _scores(factor, pictures)
            best = scores.argsort(dim=1, descending=True, stable=True)[:, :k].tolist()
            for verdict, indices in zip(verdicts, best, strict=True):
                verdict[factor.name] = tuple(factor.labels[index] for index in indices)
        return [Look(verdict, each) for verdict, each in zip(verdicts, found, strict=True)]

    def seen(self, pictures: Tensor, k: int = TOP) -> list[dict[str, tuple[str, ...]]]:
        """The verdicts of `look` alone."""
        return [look.verdict or {} for look in self.look(pictures, k)]

    @torch.no_grad()
    def confidence(self, pictures: Tensor, concept: str) -> Tensor:
        """How sure the judge is that each picture (n, height, width, 3) shows the concept, (n,): the softmax of its scores.
        ImageNet has some labels twice, and then both count. Raises ValueError without a label for it (`labelled`)."""
        factor = self.factor_of(concept)
        if factor is None:
            raise ValueError(
                f"the judge {self.name!r} has no label for {concept!r}; choose a judge that knows the concept"
            )
        meant = factor.label_of(concept)
        places = [place for place, label in enumerate(factor.labels) if label == meant]
        return _scores(factor, pictures).softmax(1)[:, places].sum(1)


def _scores(factor: Factor, pictures: Tensor) -> Tensor:
    return torch.cat([factor.score(part) for part in pictures.split(AT_ONCE)])
