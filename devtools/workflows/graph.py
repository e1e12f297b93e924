"""Build a workflow in the format that the browser saves, from what the server says of its nodes. Standard library only."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Iterator

from .canvas import Canvas, End, Output
from .widgets import Widget, widgets

INPUTS, OUTPUTS = -10, -20  # the ids of a subgraph's own ends
SCALE, OFFSET = 1.2, (85, 180)  # how the browser opens it: the note can be read, nothing lies under the menu
TEMPLATE = "concept_erasure_template"  # the mark that web/js/open_template.js looks for

__all__ = ["Graph", "Output", "Subgraph", "dumps", "each"]


class Subgraph(Canvas):
    """A part of a workflow that is shown as one node; made by `Graph.part`."""

    def __init__(self, name: str, workflow: str, object_info: dict, ids: Counter) -> None:
        super().__init__(object_info, ids)
        self.name, self.id = name, _stable_id(f"{workflow}/{name}")
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


def each(workflow: dict) -> Iterator[dict]:
    """Every node of a workflow, those inside its subgraphs too."""
    yield from workflow["nodes"]
    for part in workflow.get("definitions", {}).get("subgraphs", []):
        yield from part["nodes"]


def _stable_id(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"concept-erasure/{name}"))
