"""Presets: the recipes of the help page as settings of every method.

A preset names the kind of concept and the time that a run may take, "style, quick". It fills in settings, and is never a
setting: a run uses the settings alone, so that a preset's name and the visible values cannot contradict each other.
The page fills them in; a caller of the API sends every setting anyway.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from ...erasure_core.method import ErasureMethod, settings_of

CUSTOM = "custom"
"""No preset: the settings are somebody's own."""
SUBJECTS: dict[str, dict[str, str]] = {
    "object": {},
    "style": {"vocabulary": "art_styles"},
    "identity": {"vocabulary": "people_and_bodies"},
    "nudity": {"vocabulary": "people_and_bodies", "layers": "non_cross_attention"},
}
"""Kinds of concepts, each with its settings; a method takes those that it has."""
CONCEPTS = {"nudity": "nudity\nnaked"}
"""The text for the field `concepts`, for kinds of which everybody writes the same."""
EFFORTS = {"quick": 0.5, "balanced": 1.0, "thorough": 2.0}
"""Factors on the default length of a run."""
LENGTHS = ("steps", "sentences")
"""The settings that say how long a method works, the first that it has: optimiser steps, or sentences solved for."""
DEFAULT = "object, balanced"


def preset_names() -> tuple[str, ...]:
    """Every preset, `CUSTOM` last."""
    return (*(f"{subject}, {effort}" for subject in SUBJECTS for effort in EFFORTS), CUSTOM)


def preset_settings(method: type[ErasureMethod], name: str) -> dict[str, Any]:
    """The values that a preset gives to `method`: for every setting that any preset touches its own value or the default,
    so that the preset chosen last is all that one sees. `CUSTOM` gives none.

    Raises ValueError for an unknown preset.
    """
    if name not in preset_names():
        raise ValueError(f"unknown preset {name!r}; choose one of {', '.join(preset_names())}")
    if name == CUSTOM:
        return {}
    subject, effort = name.split(", ")
    fields = {field.name: field for field in settings_of(method)}
    touched = [setting for wanted in SUBJECTS.values() for setting in wanted if setting in fields]
    values = {setting: SUBJECTS[subject].get(setting, fields[setting].default) for setting in touched}
    length = next((fields[setting] for setting in LENGTHS if setting in fields), None)
    return values if length is None else values | {length.name: _scaled(length, EFFORTS[effort])}


def preset_note(method: ErasureMethod, name: str) -> str:
    """The line of a report about a preset: its name, and which of its values a run did not use."""
    meant = preset_settings(type(method), name)
    used = {setting: getattr(method, setting) for setting in meant}
    other = [f"{setting} {used[setting]} for {value}" for setting, value in meant.items() if used[setting] != value]
    return f"preset: {name}" + (f", changed: {', '.join(other)}" if other else "")


def _scaled(field: dataclasses.Field, factor: float) -> int:
    default: Any = field.default
    low, high = field.metadata["minimum"], field.metadata["maximum"]
    return int(min(high, max(low, round(default * factor))))
