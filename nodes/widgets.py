"""A method's settings dataclass -> the widgets of the `method` combo, and back: the one translator."""

from __future__ import annotations

import dataclasses
from typing import Any

from comfy_api.latest import io

from ..erasure_core.method import ErasureMethod, methods, settings_of


def widget(field: dataclasses.Field) -> io.Input:
    """The input of one setting, with its default, range and help."""
    help_text, low, high, step, choices, advanced = (
        field.metadata[key] for key in ("help", "minimum", "maximum", "step", "choices", "advanced")
    )
    common = {"default": field.default, "tooltip": help_text, "advanced": advanced or None}
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
    """The `method` combo: one option a registered method, `first` leading, its settings nested."""
    found = methods()
    names = sorted(found, key=lambda name: (name != first, name))
    return io.DynamicCombo.Input(
        "method",
        options=[io.DynamicCombo.Option(name, [widget(field) for field in settings_of(found[name])]) for name in names],
        tooltip="How to erase. "
        + "; ".join(f"{name}: {found[name].title} ({found[name].paper})" for name in names)
        + ".",
    )


def chosen_method(values: dict[str, Any], seed: int) -> ErasureMethod:
    """The method and settings that the combo's value names. Raises ValueError for a setting out of range."""
    values = dict(values)
    name = values.pop("method")
    found = methods()
    if name not in found:
        raise ValueError(f"unknown method {name!r}; choose one of {', '.join(found)}")
    return found[name](seed=seed, **values)
