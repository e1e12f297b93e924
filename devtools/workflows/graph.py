"""Build a workflow in the format that the browser saves, from what the server says of its nodes. Standard library only."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator

from .canvas import Canvas, Output, Subgraph, stable_id

SCALE, OFFSET = 1.2, (85, 180)  # how the browser opens it: the note can be read, nothing lies under the menu
TEMPLATE = "concept_erasure_template"  # the mark that web/js/open_template.js looks for

__all__ = ["Graph", "Output", "Subgraph", "dumps", "each"]


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
            "id": stable_id(self._name),
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
