"""The settings dataclass of a method or attack -> the widgets of its combo, and back: the one translator."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from comfy_api.v0_0_2 import io

from ...erasure_core.method import ErasureMethod, methods, settings_of
from ...erasure_core.red_team.attack import Attack, attacks
from .presets import CONCEPTS, DEFAULT, preset_names, preset_settings

MOVED = {"ap": {"schedule": {"reference": "ap_reference"}}}
"""Settings that methods had in earlier versions: of each the values that are methods of their own now. The others are what
the method does anyway."""


def widget(field: dataclasses.Field) -> io.Input:
    """The input of one setting, with its default, range and help, behind the node's "advanced" choice."""
    help_text, low, high, step, choices = (
        field.metadata[key] for key in ("help", "minimum", "maximum", "step", "choices")
    )
    common = {"default": field.default, "tooltip": help_text, "advanced": True}
    if choices is not None:
        return io.Combo.Input(field.name, options=list(choices), **common)
    if isinstance(field.default, bool):
        return io.Boolean.Input(field.name, **common)
    if isinstance(field.default, int):
        return io.Int.Input(field.name, min=int(low), max=int(high), step=int(step or 1), **common)
    if isinstance(field.default, float):
        return io.Float.Input(field.name, min=low, max=high, step=step or 0.01, round=False, **common)
    if isinstance(field.default, str):
        return io.String.Input(field.name, multiline=True, **common)
    raise TypeError(f"setting {field.name!r} is of type {type(field.default).__name__}, which has no widget")


def method_input(first: str = "ap") -> io.DynamicCombo.Input:
    """The `method` combo: one option a registered method, `first` leading, its settings nested. From `moved` the page reads
    what became of settings that a workflow was saved with before."""
    tooltip = "How to erase. ap is a good start; uce takes seconds. The help page says more."
    return _combo("method", methods(), first, tooltip, moved=MOVED)


def attack_input(first: str = "paraphrase") -> io.DynamicCombo.Input:
    """The `attack` combo: one option a registered attack, `first` leading, its settings nested."""
    return _combo(
        "attack", attacks(), first, "How to bring the concept back. The help page says what each attack does."
    )


def preset_input() -> io.Combo.Input:
    """The `preset` combo. The page reads from `settings` what it fills in: method -> preset -> setting -> value, and from
    `concepts` what it writes into that field while it is empty."""
    names = preset_names()
    return io.Combo.Input(
        "preset",
        options=list(names),
        default=DEFAULT,
        optional=True,
        tooltip="The kind of concept, and how long the run may take. Fills in the settings of the method (see advanced), which "
        "you can still change; the run uses the settings.",
        extra_dict={
            "settings": {
                method: {name: preset_settings(kind, name) for name in names} for method, kind in methods().items()
            },
            "concepts": {name: CONCEPTS[subject] for name in names if (subject := name.split(", ")[0]) in CONCEPTS},
        },
    )


def strength_input(tooltip: str, optional: bool = False) -> io.Float.Input:
    """How strongly an edit acts; the same range wherever one sets it."""
    return io.Float.Input("strength", default=1.0, min=-10.0, max=10.0, step=0.05, optional=optional, tooltip=tooltip)


def labels(found: Mapping[str, type]) -> dict[str, str]:
    """What people read in place of each name of a method or attack: what it does, the name behind."""
    says = {name: kind.title.partition(": ")[2] or kind.title for name, kind in found.items()}
    return {name: f"{text[0].upper()}{text[1:]} ({name})" for name, text in says.items()}


def _combo(kind: str, found: Mapping[str, type], first: str, tooltip: str, **more: object) -> io.DynamicCombo.Input:
    names = sorted(found, key=lambda name: (name != first, name))
    return io.DynamicCombo.Input(
        kind,
        options=[io.DynamicCombo.Option(name, [widget(field) for field in settings_of(found[name])]) for name in names],
        tooltip=tooltip,
        extra_dict={"labels": labels(found), **more},
    )


def check_moved(method: str, inputs: Mapping[str, object]) -> None:
    """Raise ValueError, naming the method to choose, if `inputs`, those of a prompt that the node does not have, hold a setting
    of an earlier version whose value is a method of its own now."""
    for setting, becomes in MOVED.get(method, {}).items():
        value = str(inputs.get(f"method.{setting}"))
        if value in becomes:
            raise ValueError(
                f"{method} has no setting {setting} any more; for {value} choose the method {becomes[value]}"
            )


def chosen_method(values: dict[str, Any], seed: int) -> ErasureMethod:
    """The method and settings that the combo's value names. Raises ValueError for a setting out of range."""
    return _chosen("method", methods(), values, seed)


def chosen_attack(values: dict[str, Any], seed: int) -> Attack:
    """The attack and settings that the combo's value names. Raises ValueError for a setting out of range."""
    return _chosen("attack", attacks(), values, seed)


def _chosen(kind: str, found: Mapping[str, type], values: dict[str, Any], seed: int) -> Any:
    values = dict(values)
    name = values.pop(kind)
    if name not in found:
        raise ValueError(f"unknown {kind} {name!r}; choose one of {', '.join(found)}")
    return found[name](seed=seed, **values)
