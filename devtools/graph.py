"""Build a workflow in the format that the browser saves, from what the server says of its nodes. Standard library only.

Nodes stand in columns, one below the other, each as large as the browser draws it (see `devtools.node_sizes`).
"""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from .install import COMFYUI_VERSION
from .layout import lay_out, least_size
from .published import models_named, pack_id, pack_version
from .widgets import Widget, sockets, widgets
from .workflow import NOTES

INPUTS, OUTPUTS = -10, -20  # the ids of a subgraph's own ends
SCALE, OFFSET = 1.2, (85, 180)  # how the browser opens it: the note can be read, nothing lies under the menu
TEMPLATE = "concept_erasure_template"  # the mark that web/js/open_template.js looks for
PANEL_COLOURS = {"color": "#432", "bgcolor": "#000"}


@dataclass(frozen=True)
class Output:
    """An output of a node that is already there, or an input of the subgraph that is being built."""

    node: int
    slot: int


@dataclass(frozen=True)
class _End:
    """One input or output of a subgraph."""

    name: str
    kind: str
    links: list[int]
    widget: object = None
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
        values: dict[str, object] | None = None,
        links: dict[str, Output] | None = None,
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
        values: dict[str, object] | None = None,
        links: dict[str, Output] | None = None,
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
        links: dict | None,
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


class Subgraph(Canvas):
    """A part of a workflow that is shown as one node; made by `Graph.part`."""

    def __init__(self, name: str, workflow: str, object_info: dict, ids: Counter) -> None:
        super().__init__(object_info, ids)
        self.name, self.id = name, _stable_id(f"{workflow}/{name}")
        self.ends: list[_End] = []
        self.results: list[_End] = []

    def input(self, name: str, kind: str, widget: Widget | None = None) -> Output:
        """A new input; with a widget it is one that an instance shows."""
        self.ends.append(_End(name, kind, [], widget))
        return Output(INPUTS, len(self.ends) - 1)

    def widget(self, name: str, kind: str, input_name: str, value: object) -> Output:
        """A new input that shows the widget of a node of class `kind`, with this value until it is changed."""
        (found,) = (one for one in widgets(self._info[kind]["input"], {input_name: value}) if one.name == input_name)
        return self.input(name, found.kind, found)

    def output(self, name: str, origin: Output) -> None:
        """A new output."""
        link = self._link(origin, OUTPUTS, len(self.results))
        self.results.append(_End(name, self._links[-1]["type"], [link]))

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

    def _side(self, ends: list[_End], x: int) -> list[dict]:
        return [
            {
                "id": _stable_id(f"{self.name}/{x < 0}/{end.name}"),
                "name": end.name,
                "type": end.kind,
                "linkIds": end.links,
            }
            | {"pos": [x, 20 + 20 * row]}
            for row, end in enumerate(ends)
        ]


class Graph(Canvas):
    """A whole workflow; `workflow` gives the JSON."""

    def __init__(self, name: str, object_info: dict) -> None:
        super().__init__(object_info, Counter())
        self._name, self._parts = name, []

    def part(self, name: str) -> Subgraph:
        """A new, empty subgraph, to be filled before it is used."""
        self._parts.append(Subgraph(name, self._name, self._info, self._ids))
        return self._parts[-1]

    def workflow(self) -> dict:
        """The whole graph. Its id follows from its name, so that writing it again changes nothing."""
        level = self._level()
        keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
        return {
            "id": _stable_id(self._name),
            "revision": 0,
            "last_node_id": self._ids["node"],
            "last_link_id": self._ids["link"],
            "nodes": level["nodes"],
            "links": [[link[key] for key in keys] for link in self._links],
            "groups": level["groups"],
            **({"definitions": {"subgraphs": [part.definition() for part in self._parts]}} if self._parts else {}),
            "config": {},
            "extra": {"ds": {"scale": SCALE, "offset": list(OFFSET)}, "workflowRendererVersion": "LG", TEMPLATE: True},
            "version": 0.4,
        }


def dumps(workflow: dict) -> str:
    """JSON with one node or link a line, which a diff can show."""
    return _written(workflow, "") + "\n"


def _written(level: dict, margin: str) -> str:
    parts = []
    for key, value in level.items():
        if key == "definitions":
            below = ",\n".join(f"{margin}    {_written(one, margin + '    ')}" for one in value["subgraphs"])
            text = f'{{"subgraphs": [\n{below}\n{margin}  ]}}'
        elif isinstance(value, list) and value and isinstance(value[0], (dict, list)):
            rows = ",\n".join(f"{margin}    {json.dumps(row, ensure_ascii=False)}" for row in value)
            text = f"[\n{rows}\n{margin}  ]"
        else:
            text = json.dumps(value, ensure_ascii=False)
        parts.append(f"{margin}  {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(parts) + f"\n{margin}}}"


def _stable_id(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"concept-erasure/{name}"))


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


def each(workflow: dict) -> Iterator[dict]:
    """Every node of a workflow, those inside its subgraphs too."""
    yield from workflow["nodes"]
    for part in workflow.get("definitions", {}).get("subgraphs", []):
        yield from part["nodes"]
