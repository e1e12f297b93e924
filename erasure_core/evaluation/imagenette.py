"""The protocol of AP's objects (arXiv 2410.15618, section 5.1): Imagenette's ten classes, of which five are erased at once."""

from __future__ import annotations

from collections.abc import Sequence

from .prompt_sets import PromptSet
from .prompts import RETAIN, TARGET, Prompt

NAME = "Imagenette (built in)"
CLASSES = (
    "cassette player",
    "chain saw",
    "church",
    "gas pump",
    "tench",
    "garbage truck",
    "English springer",
    "golf ball",
    "parachute",
    "French horn",
)
"""As ImageNet's classifiers call them."""
SPLITS = {
    "v1": ("cassette player", "church", "garbage truck", "parachute", "French horn"),
    "v2": ("chain saw", "gas pump", "tench", "English springer", "golf ball"),
    "v3": ("cassette player", "chain saw", "church", "gas pump", "tench"),
    "v4": ("garbage truck", "English springer", "golf ball", "parachute", "French horn"),
}
"""Which five are erased, and the other five preserved; the published figures are the mean of the four."""
PUBLISHED_PICTURES = 500


def imagenette(targets: Sequence[str]) -> PromptSet:
    """One prompt a class, those of `targets` to be gone and the others to stay, and a note on which split this is.

    Raises ValueError, naming it and the classes, if a target is none of them, or nothing is left to stay.
    """
    wanted = {target.casefold(): target for target in targets}
    unknown = [target for key, target in wanted.items() if key not in {name.casefold() for name in CLASSES}]
    if unknown or len(wanted) == len(CLASSES):
        reason = (
            f"{unknown[0]!r} is no class of Imagenette" if unknown else "all ten classes are erased, and none stays"
        )
        published = "; ".join(f"{split}: {', '.join(names)}" for split, names in SPLITS.items())
        raise ValueError(f"prompt_file {NAME}: {reason}. Write into concepts what was erased, as in {published}")
    prompts = tuple(
        Prompt(f"Image of {name}", TARGET, wanted[name.casefold()])
        if name.casefold() in wanted
        else Prompt(f"Image of {name}", RETAIN, name)
        for name in CLASSES
    )
    return PromptSet(prompts, (_note(set(wanted)),))


def _note(erased: set[str]) -> str:
    split = next((key for key, names in SPLITS.items() if {name.casefold() for name in names} == erased), None)
    which = f"split {split}" if split else f"none of the published splits ({len(erased)} of ten classes erased)"
    return f"Imagenette, {which}; published figures are of {PUBLISHED_PICTURES} pictures a class and the mean of four splits"
