"""A node's inputs as the browser draws them: sockets first, then widgets. Standard library only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .api_prompt import DYNAMIC_COMBO, SEEDS, WIDGETS

OPTIONAL_SHAPE = 7  # how the browser draws the socket of an optional input


@dataclass(frozen=True)
class Widget:
    """One widget as the browser lays it out: its id (dotted inside a dynamic combo), type and value."""

    name: str
    kind: str
    value: object
    optional: bool
    then: tuple[object, ...] = ()
    """Values that are no input but are saved behind it: what to do with a seed after a run."""
    advanced: bool = False

    @property
    def shape(self) -> dict:
        """The shape of its socket, as an entry of a saved node has it."""
        return {"shape": OPTIONAL_SHAPE} if self.optional else {}


def sockets(spec: dict) -> list[dict]:
    """The inputs that only a link can feed; the browser puts them before the widgets."""
    return [
        {"localized_name": name, "name": name}
        | ({"shape": OPTIONAL_SHAPE} if optional else {})
        | {"type": kind, "link": None}
        for name, kind, _, options, optional in _each(spec)
        if not _is_widget(kind, options)
    ]


def widgets(spec: dict, values: dict[str, object], prefix: str = "") -> Iterator[Widget]:
    """The widgets in the browser's order, a dynamic combo's own right behind it; takes what it uses out of `values`."""
    for short, kind, choices, options, optional in _each(spec):
        if not _is_widget(kind, options):
            continue
        name = prefix + short
        keys = [choice["key"] for choice in choices] if kind == DYNAMIC_COMBO else choices
        default = options.get("default", "" if kind == "STRING" else keys[0] if keys else None)
        value = values.pop(name, default)
        seed = options.get("control_after_generate") or short in SEEDS
        yield Widget(name, kind, value, optional, ("fixed",) if seed else (), bool(options.get("advanced")))
        if kind == DYNAMIC_COMBO:
            yield from widgets(choices[keys.index(value)]["inputs"], values, f"{name}.")


def _each(spec: dict) -> Iterator[tuple[str, str, list, dict, bool]]:
    """Every input: id, type, the choices of a combo, options, whether it is optional."""
    for group in ("required", "optional"):
        for name, (kind, *more) in spec.get(group, {}).items():
            options = more[0] if more else {}
            listed = isinstance(kind, list)
            choices = kind if listed else options.get("options") or []
            yield name, "COMBO" if listed else kind, choices, options, group != "required"


def _is_widget(kind: str, options: dict) -> bool:
    return kind in WIDGETS and not options.get("forceInput")
