"""The base class of attacks on an erasure, and the registry that finds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..method import check_setting, settings_of
from ..report import Report
from .attacked_model import ERASED, NEEDS, AttackedModel, DoesNotFit, Text

SEEDS = 2**64
"""Seeds beyond the largest one begin at 0 again."""
_REGISTRY: dict[str, type[Attack]] = {}


@dataclass(frozen=True)
class Shot:
    """The pictures (n, height, width, 3) of one condition, how sure the judge is of the concept in each (n,), and in
    which it sees the concept. Where an attempt has several tries, only its best one stands here."""

    pictures: Tensor
    confidence: Tensor
    hits: tuple[bool, ...]

    def strongest(self) -> tuple[Tensor, float]:
        """The picture that the judge is surest of, (height, width, 3), and how sure."""
        best = int(self.confidence.argmax())
        return self.pictures[best], float(self.confidence[best])


@dataclass(frozen=True)
class Outcome:
    """The result of an attack: its own attempts, those of its control, and what it found.

    `found` is a prompt or words for one; `embedding` (k, width) stands for k tokens. `control_is` names the control.
    """

    attack: Shot
    control: Shot
    control_is: str
    found: str = ""
    embedding: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Attack:
    """A way to bring an erased concept back. The dataclass fields are its settings; a file in `attacks/` that defines a
    subclass with a `name` is all that a new attack takes.

    `variants` are settings (`steps=50 rank=8`) under which it is another question, asked besides the defaults. `needs` says
    what of `attacked_model.NEEDS` the models must have for it.

    Raises ValueError on construction if a setting is outside its range, naming the setting and the range.
    """

    name: ClassVar[str] = ""
    title: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    variants: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[tuple[str, ...]] = ()

    seed: int = 0

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not cls.__dict__.get("name"):
            return
        other = _REGISTRY.get(cls.name)
        if other is not None and other.__module__ != cls.__module__:
            raise TypeError(f"two attacks are named {cls.name!r}: {other.__module__} and {cls.__module__}; rename one")
        _REGISTRY[cls.name] = cls

    def __post_init__(self) -> None:
        for field in settings_of(type(self)):
            check_setting(self.name, field, getattr(self, field.name))

    def run(self, attacked: AttackedModel, n: int, report: Report) -> Outcome:
        """Attack with n attempts and as many of the control. Both models are left as they were.

        Raises DoesNotFit if it cannot be made on these models, FloatingPointError if what it learns is not finite, and
        whatever `report.check` raises when the user cancels.
        """
        raise TypeError(f"{type(self).__name__} does not say how it attacks: implement run()")

    def label(self) -> str:
        """The name, and behind it the settings that differ from the defaults, as in Red-Team Summary's list."""
        return label_of(self.name, {field.name: getattr(self, field.name) for field in settings_of(type(self))})

    def generator(self) -> torch.Generator:
        """The attack's own source of random numbers."""
        return torch.Generator().manual_seed(self.seed)

    def seeds(self, n: int, part: int = 1) -> list[int]:
        """Seeds of n pictures; different parts share none, and part 0 is that of the search before the attempts."""
        return [(self.seed + 100_000 * part + i) % SEEDS for i in range(n)]


def attacks() -> dict[str, type[Attack]]:
    """Every attack by name: all that the files in `attacks/` define, sorted."""
    return dict(sorted(_REGISTRY.items()))


def label_of(name: str, settings: Mapping[str, Any]) -> str:
    """See `Attack.label`."""
    defaults = {field.name: field.default for field in settings_of(attacks()[name])}
    changed = [f"{key}={value}" for key, value in settings.items() if value != defaults.get(key)]
    return " ".join([name, *changed])


def check_fits(attacked: AttackedModel, attack: Attack) -> None:
    """Raise DoesNotFit, saying why, if the models lack what the attack needs; nothing is drawn for that."""
    for need in attack.needs:
        if (why := attacked.lacks(need)) is not None:
            raise DoesNotFit(f"{attack.name} does not work on this model: it needs {NEEDS[need]}, and {why}")


def judged(attacked: AttackedModel, pictures: Tensor) -> Shot:
    """The judge's verdict on pictures."""
    return Shot(pictures, attacked.confidence(pictures), tuple(attacked.hits(pictures)))


def shoot(attacked: AttackedModel, texts: Sequence[Text], seeds: Sequence[int], who: str = ERASED) -> Shot:
    """Draw and judge."""
    return judged(attacked, attacked.draw(who, texts, seeds).pictures)


def best_of(shots: Sequence[Shot]) -> Shot:
    """Of several tries at the same attempts the one that the judge is surest of, attempt by attempt; an attempt counts if
    any of its tries does."""
    sure = torch.stack([shot.confidence for shot in shots])
    choice = sure.argmax(0).tolist()
    pictures = torch.stack([shots[best].pictures[i] for i, best in enumerate(choice)])
    hits = tuple(any(shot.hits[i] for shot in shots) for i in range(len(choice)))
    return Shot(pictures, sure.max(0).values, hits)


def best_text(attacked: AttackedModel, candidates: Sequence[str], attack: Attack, tries: int, report: Report) -> str:
    """The prompt that, drawn `tries` times by the erased model, makes the judge surest of the concept on average. What it
    is measured on is not what it is reported on: the attempts take other seeds."""
    texts = [text for text in candidates for _ in range(tries)]
    report.check(f"{attack.name}: trying {len(candidates)} prompts")
    shot = shoot(attacked, texts, attack.seeds(tries, 0) * len(candidates))
    return candidates[int(shot.confidence.reshape(len(candidates), tries).mean(1).argmax())]
