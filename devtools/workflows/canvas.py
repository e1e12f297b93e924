"""One level of a workflow: nodes in columns, and the links between them. Standard library only.

Each node is as large as the browser draws it (see `devtools.node_sizes`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..hosting.install import COMFYUI_VERSION
from .api_prompt import NOTES
from .layout import lay_out, least_size
from .published import models_named, pack_id, pack_version
from .widgets import Widget, sockets, widgets

if TYPE_CHECKING:
    from .graph import Subgraph

PANEL_COLOURS = {"color": "#432", "bgcolor": "#000"}


@dataclass(frozen=True)
class Output:
    """An output of a node that is already there, or an input of the subgraph that is being built."""

    node: int
    slot: int


@dataclass(frozen=True)
class End:
    """One input or output of a subgraph."""

    name: str
    kind: str
    links: list[int]
    widget: Widget | None = None
    """The Widget that it feeds, if it feeds one: its own value is what an instance has until it is changed."""


class Canvas:
    """Nodes and links of one level, added one after the other. Raises KeyError for an unknown node or input."""

    def __init__(self, object_info: dict, ids: Counter) -> None:
        self._info, self._ids = object_info, ids  # ids are given once in a whole workflow, as the browser wants it
        self._nodes: dict[int, dict] = {}
        self._columns: dict[int, list[int]] = {}
        self._links: list[dict] = []
        self._titles: dict[int, str] = {}

    def group(self, title: str, *columns: int) -> None:
        """Frame columns that stand side by side, under a title."""
        self._titles |= dict.fromkeys(columns, title)

    def add(
        self,
        kind: str,
        column: int,
        title: str = "",
        values: Mapping[str, object] | None = None,
        links: Mapping[str, Output] | None = None,
        size: tuple[int, int] = (0, 0),
    ) -> list[Output]:
        """Add a node at the end of a column and return its outputs; without a title it has its display name.

        Widgets not among `values` get their defaults; a link may feed a widget. It is at least of `size`.
        """
        values = dict(values or {})
        note = kind in NOTES
        info = {"input": {}, "output": []} if note else self._info[kind]
        shown = list(widgets(info["input"], values))
        saved = [value for widget in shown for value in (widget.value, *widget.then)]
        if note:
            saved = [values.pop("text")]
        if values:
            raise KeyError(f"{kind} has no input {', '.join(values)}")
        node = {
            "type": kind,
            "size": least_size(kind, shown, size),
            "properties": {} if note else _properties(kind, info),
        }
        if any(one.advanced for one in shown):
            node["showAdvanced"] = False  # without it the page takes the file for one from before there was the choice
        files = models_named(saved)
        node["properties"] |= {"models": files} if files else {}
        outputs = [
            _named(name) | {"type": type_}
            for name, type_ in zip(info.get("output_name", ()), info["output"], strict=True)
        ]
        return self._place(node, column, title, [*sockets(info["input"]), *map(_entry, shown)], outputs, saved, links)

    def use(
        self,
        part: Subgraph,
        column: int,
        title: str = "",
        values: Mapping[str, object] | None = None,
        links: Mapping[str, Output] | None = None,
        size: tuple[int, int] = (0, 0),
    ) -> list[Output]:
        """Add an instance of a subgraph; its widgets are the ends that feed widgets inside."""
        values = dict(values or {})
        shown = {end.name: values.pop(end.name, end.widget.value) for end in part.ends if end.widget}
        if values:
            raise KeyError(f"{part.name} has no widget {', '.join(values)}")
        inputs = [
            {"name": end.name, "type": end.kind, "link": None} | ({"widget": {"name": end.name}} if end.widget else {})
            for end in part.ends
        ]
        outputs = [_named(end.name) | {"type": end.kind} for end in part.results]
        own = {"cnr_id": pack_id(), "ver": pack_version()}
        node = {"type": part.id, "size": least_size(part.name, [end.widget for end in part.ends if end.widget], size)}
        return self._place(
            node | {"properties": own}, column, title or part.name, inputs, outputs, list(shown.values()), links
        )

    def _place(
        self,
        node: dict,
        column: int,
        title: str,
        inputs: list[dict],
        outputs: list[dict],
        saved: list,
        links: Mapping[str, Output] | None,
    ) -> list[Output]:
        self._ids["node"] += 1
        number = self._ids["node"]
        kind, unknown = node["type"], dict(links or {})
        node = {"id": number} | node | {"pos": [0, 0], "flags": {}, "order": len(self._nodes), "mode": 0}
        node |= {"inputs": inputs, "outputs": [output | {"links": None} for output in outputs], "widgets_values": saved}
        node |= ({"title": title} if title else {}) | (PANEL_COLOURS if kind in NOTES else {})
        self._nodes[number] = node
        self._columns.setdefault(column, []).append(number)
        for slot, entry in enumerate(inputs):
            if entry["name"] in unknown:
                entry["link"] = self._link(unknown.pop(entry["name"]), number, slot, entry)
        if unknown:
            raise KeyError(f"{kind} has no input {', '.join(unknown)}")
        return [Output(number, slot) for slot in range(len(outputs))]

    def _link(self, origin: Output, target: int, slot: int, entry: dict | None = None) -> int:
        self._ids["link"] += 1
        number = self._ids["link"]
        kind = self._attach(origin, number)
        ends = {"origin_id": origin.node, "origin_slot": origin.slot, "target_id": target, "target_slot": slot}
        self._links.append({"id": number} | ends | {"type": kind})
        return number

    def _attach(self, origin: Output, link: int) -> str:
        """Note the link at its origin and return the type of what it carries."""
        output = self._nodes[origin.node]["outputs"][origin.slot]
        output["links"] = [*(output["links"] or []), link]
        return output["type"]

    def _level(self) -> dict:
        groups = lay_out(self._nodes, self._columns, self._titles)
        return {"nodes": list(self._nodes.values()), "groups": groups}


def _properties(kind: str, info: dict) -> dict:
    """Whose node it is, so that a page which lacks it can offer to install the pack."""
    core = not info["python_module"].startswith("custom_nodes.")
    pack = {"cnr_id": "comfy-core", "ver": COMFYUI_VERSION} if core else {"cnr_id": pack_id(), "ver": pack_version()}
    return {"Node name for S&R": kind} | pack


def _entry(widget: Widget) -> dict:
    """A widget is an input too: a link may feed it."""
    return _named(widget.name) | widget.shape | {"type": widget.kind, "widget": {"name": widget.name}, "link": None}


def _named(name: str) -> dict:
    return {"localized_name": name, "name": name}
