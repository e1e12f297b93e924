"""Build a workflow in the format that the browser saves, from what the server says of its nodes. Standard library only."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

from .workflow import DYNAMIC_COMBO, NOTES, SEEDS, WIDGETS

OPTIONAL_SHAPE = 7  # how the browser draws the socket of an optional input
Place = tuple[int, int]


@dataclass(frozen=True)
class Widget:
    """One widget as the browser lays it out: its id (dotted inside a dynamic combo), type and value."""

    name: str
    kind: str
    value: object
    optional: bool
    then: tuple[object, ...] = ()
    """Values that are no input but are saved behind it: what to do with a seed after a run."""


@dataclass(frozen=True)
class Output:
    """An output of a node that is already in the graph."""

    node: int
    slot: int


class Graph:
    """Nodes and links, added one after the other; `workflow` gives the JSON. Raises KeyError for an unknown node or input."""

    def __init__(self, name: str, object_info: dict) -> None:
        self._name, self._info = name, object_info
        self._nodes: list[dict] = []
        self._links: list[list] = []

    def add(
        self,
        kind: str,
        place: Place,
        size: Place,
        title: str = "",
        values: dict[str, object] | None = None,
        links: dict[str, Output] | None = None,
    ) -> list[Output]:
        """Add a node and return its outputs; without a title it has its display name.

        Widgets not among `values` get their defaults; a link may feed a widget.
        """
        values, links = dict(values or {}), dict(links or {})
        node_id = len(self._nodes) + 1
        note = kind in NOTES
        info = {"input": {}, "output": []} if note else self._info[kind]
        widgets = list(_widgets(info["input"], values))
        inputs = [*_sockets(info["input"]), *map(_entry, widgets)]
        saved = [value for widget in widgets for value in (widget.value, *widget.then)]
        if note:
            saved = [values.pop("text")]
        for slot, entry in enumerate(inputs):
            if entry["name"] in links:
                entry["link"] = self._link(links.pop(entry["name"]), node_id, slot)
        if values or links:
            raise KeyError(f"{kind} has no input {', '.join([*values, *links])}")
        outputs = [
            {"localized_name": name, "name": name, "type": type_, "links": None}
            for name, type_ in zip(info.get("output_name", ()), info["output"], strict=True)
        ]
        self._nodes.append({
            "id": node_id, "type": kind, "pos": list(place), "size": list(size), "flags": {}, "order": node_id - 1,
            "mode": 0, "inputs": inputs, "outputs": outputs,
            "properties": {} if note else {"Node name for S&R": kind}, "widgets_values": saved,
        } | ({"title": title} if title else {}) | ({"color": "#432", "bgcolor": "#000"} if note else {}))  # fmt: skip
        return [Output(node_id, slot) for slot in range(len(outputs))]

    def _link(self, origin: Output, target: int, slot: int) -> int:
        output = self._nodes[origin.node - 1]["outputs"][origin.slot]
        link = len(self._links) + 1
        self._links.append([link, origin.node, origin.slot, target, slot, output["type"]])
        output["links"] = [*(output["links"] or []), link]
        return link

    def workflow(self) -> dict:
        """The whole graph. Its id follows from its name, so that writing it again changes nothing."""
        return {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"concept-erasure/{self._name}")),
            "revision": 0,
            "last_node_id": len(self._nodes),
            "last_link_id": len(self._links),
            "nodes": self._nodes,
            "links": self._links,
            "groups": [],
            "config": {},
            "extra": {},
            "version": 0.4,
        }


def dumps(workflow: dict) -> str:
    """JSON with one node or link a line, which a diff can show."""
    parts = []
    for key, value in workflow.items():
        if isinstance(value, list) and value:
            rows = ",\n".join(f"    {json.dumps(row, ensure_ascii=False)}" for row in value)
            parts.append(f"  {json.dumps(key)}: [\n{rows}\n  ]")
        else:
            parts.append(f"  {json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _each(spec: dict) -> Iterator[tuple[str, str, object, dict, bool]]:
    """Every input: id, type, the list of an old-style combo or None, options, whether it is optional."""
    for group in ("required", "optional"):
        for name, (kind, *more) in spec.get(group, {}).items():
            options = more[0] if more else {}
            listed = isinstance(kind, list)
            yield (
                name,
                "COMBO" if listed else kind,
                kind if listed else options.get("options"),
                options,
                group != "required",
            )


def _is_widget(kind: str, options: dict) -> bool:
    return kind in WIDGETS and not options.get("forceInput")


def _sockets(spec: dict) -> list[dict]:
    """The inputs that only a link can feed; the browser puts them before the widgets."""
    return [
        _named(name, optional) | {"type": kind, "link": None}
        for name, kind, _, options, optional in _each(spec)
        if not _is_widget(kind, options)
    ]


def _entry(widget: Widget) -> dict:
    """A widget is an input too: a link may feed it."""
    return _named(widget.name, widget.optional) | {"type": widget.kind, "widget": {"name": widget.name}, "link": None}


def _named(name: str, optional: bool) -> dict:
    return {"localized_name": name, "name": name} | ({"shape": OPTIONAL_SHAPE} if optional else {})


def _widgets(spec: dict, values: dict[str, object], prefix: str = "") -> Iterator[Widget]:
    """The widgets in the browser's order, a dynamic combo's own right behind it; takes what it uses out of `values`."""
    for short, kind, choices, options, optional in _each(spec):
        if not _is_widget(kind, options):
            continue
        name = prefix + short
        keys = [choice["key"] for choice in choices] if kind == DYNAMIC_COMBO else choices
        default = options.get("default", "" if kind == "STRING" else keys[0] if keys else None)
        value = values.pop(name, default)
        seed = options.get("control_after_generate") or short in SEEDS
        yield Widget(name, kind, value, optional, ("fixed",) if seed else ())
        if kind == DYNAMIC_COMBO:
            yield from _widgets(choices[keys.index(value)]["inputs"], values, f"{name}.")
