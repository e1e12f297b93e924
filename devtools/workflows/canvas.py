"""One level of a workflow: nodes in columns, and the links between them. Standard library only.

Each node is as large as the browser draws it (see `devtools.node_sizes`).
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from ..hosting.install import COMFYUI_VERSION
from .api_prompt import NOTES
from .layout import lay_out, least_size
from .published import models_named, pack_id, pack_version
from .widgets import Widget, sockets, widgets

INPUTS, OUTPUTS = -10, -20  # the ids of a subgraph's own ends
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
        saved = [values.pop("text")] if note else [value for one in shown for value in (one.value, *one.then)]
        _all_taken(values, kind, "input")

        node = {"type": kind, "size": least_size(kind, shown, size)}
        node["properties"] = {} if note else _properties(kind, info)
        if any(one.advanced for one in shown):
            node["showAdvanced"] = False  # without it the page takes the file for one from before there was the choice
        files = models_named(saved)
        node["properties"] |= {"models": files} if files else {}

        inputs = [*sockets(info["input"]), *map(_entry, shown)]
        ends = zip(info.get("output_name", ()), info["output"], strict=True)
        outputs = [_named(name) | {"type": type_} for name, type_ in ends]
        return self._place(node, column, title, inputs, outputs, saved, links)

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
        shown = [end.widget for end in part.ends if end.widget]
        saved = [values.pop(end.name, end.widget.value) for end in part.ends if end.widget]
        _all_taken(values, part.name, "widget")

        node = {"type": part.id, "size": least_size(part.name, shown, size)}
        node["properties"] = {"cnr_id": pack_id(), "ver": pack_version()}
        inputs = [
            {"name": end.name, "type": end.kind, "link": None} | ({"widget": {"name": end.name}} if end.widget else {})
            for end in part.ends
        ]
        outputs = [_named(end.name) | {"type": end.kind} for end in part.results]
        return self._place(node, column, title or part.name, inputs, outputs, saved, links)

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
        _all_taken(unknown, kind, "input")
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


class Subgraph(Canvas):
    """A part of a workflow that is shown as one node; made by `Graph.part`."""

    def __init__(self, name: str, workflow: str, object_info: dict, ids: Counter) -> None:
        super().__init__(object_info, ids)
        self.name, self.id = name, stable_id(f"{workflow}/{name}")
        self.ends: list[End] = []
        self.results: list[End] = []

    def input(self, name: str, kind: str, widget: Widget | None = None) -> Output:
        """A new input; with a widget it is one that an instance shows."""
        self.ends.append(End(name, kind, [], widget))
        return Output(INPUTS, len(self.ends) - 1)

    def widget(self, name: str, kind: str, input_name: str, value: object) -> Output:
        """A new input that shows the widget of a node of class `kind`, with this value until it is changed."""
        (found,) = (one for one in widgets(self._info[kind]["input"], {input_name: value}) if one.name == input_name)
        return self.input(name, found.kind, found)

    def output(self, name: str, origin: Output) -> None:
        """A new output."""
        link = self._link(origin, OUTPUTS, len(self.results))
        self.results.append(End(name, self._links[-1]["type"], [link]))

    def _attach(self, origin: Output, link: int) -> str:
        if origin.node != INPUTS:
            return super()._attach(origin, link)
        self.ends[origin.slot].links.append(link)
        return self.ends[origin.slot].kind

    def definition(self) -> dict:
        """The subgraph as `definitions.subgraphs` has it."""
        level = self._level()
        right = max(node["pos"][0] + node["size"][0] for node in level["nodes"]) + 60
        ends = {
            "inputNode": {"id": INPUTS, "bounding": [-180, 0, 120, 40 + 20 * len(self.ends)]},
            "outputNode": {"id": OUTPUTS, "bounding": [right, 0, 120, 40 + 20 * len(self.results)]},
        }
        head = {"id": self.id, "version": 1, "revision": 0, "name": self.name, "config": {}}
        state = {
            "lastGroupId": 0,
            "lastNodeId": max(self._nodes),
            "lastLinkId": self._links[-1]["id"],
            "lastRerouteId": 0,
        }
        sides = {"inputs": self._side(self.ends, -80), "outputs": self._side(self.results, right + 20)}
        return head | {"state": state} | ends | sides | {"widgets": []} | level | {"links": self._links, "extra": {}}

    def _side(self, ends: list[End], x: int) -> list[dict]:
        rows = []
        for row, end in enumerate(ends):
            name = {"id": stable_id(f"{self.name}/{x < 0}/{end.name}"), "name": end.name, "type": end.kind}
            rows.append(name | {"linkIds": end.links, "pos": [x, 20 + 20 * row]})
        return rows


def _all_taken(rest: Mapping[str, object], kind: str, what: str) -> None:
    if rest:
        raise KeyError(f"{kind} has no {what} {', '.join(rest)}")


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


def stable_id(name: str) -> str:
    """An id that is the same each time a workflow is written."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"concept-erasure/{name}"))
