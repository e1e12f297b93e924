"""Where the nodes of a workflow stand, and how large they are. Standard library only."""

from __future__ import annotations

import json
from pathlib import Path

from .api_prompt import DYNAMIC_COMBO
from .widgets import Widget

SIZES = Path(__file__).with_name("node_sizes.json")
"""The least size at which the browser draws a node, by `size_key`; `devtools.node_sizes` measures it."""
WIDTH = 340
TITLE = 30  # a node's title stands above its place
BETWEEN, BESIDE = 30, 70  # nodes of a column, columns
MARGIN, HEADING = 20, 44  # of a group around its nodes, and its own title
ROOM, PREVIEW = 100, 330
"""The height that a node gains while it runs: for a line of text, and for a preview beside it."""
TALKING = (
    "ErasureEraseConcept",
    "ErasureEvaluate",
    "ErasureFindAdversarialConcept",
    "ErasureRedTeam",
    "ErasureRedTeamSummary",
    "ErasureTrainConceptSAE",
)
"""The nodes that show one."""
COLOUR, FONT = "#3f789e", 24


def size_key(kind: str, choices: list[object]) -> str:
    """The key under which a size is stored: a node's class and what its dynamic combos show."""
    return "/".join([kind, *map(str, choices)])


def least_size(kind: str, widgets: list[Widget], size: tuple[int, int]) -> list[int]:
    """`size`, or what the node needs if that is more."""
    needed = _sizes().get(size_key(kind, [one.value for one in widgets if one.kind == DYNAMIC_COMBO]), (0, 0))
    return [max(size[0] or WIDTH, needed[0]), max(size[1], needed[1])]


def _sizes() -> dict[str, list[int]]:
    return json.loads(SIZES.read_text(encoding="utf-8")) if SIZES.is_file() else {}


def _grows_by(node: dict) -> int:
    """The room that is left below a node: the page would take it off again if the node were saved larger."""
    if node["type"] not in TALKING:
        return 0
    previews = any(entry["name"] == "vae" and entry["link"] for entry in node["inputs"])
    return PREVIEW if previews and node["type"] == "ErasureEraseConcept" else ROOM


def lay_out(nodes: dict[int, dict], columns: dict[int, list[int]], titles: dict[int, str]) -> list[dict]:
    """Give every node its place, all of a column the same width; return the groups around the columns with titles."""
    boxes: dict[str, list[int]] = {}
    x = 0
    for column in sorted(columns):
        width = max(nodes[number]["size"][0] for number in columns[column])
        y = 0
        for number in columns[column]:
            node = nodes[number]
            node["pos"], node["size"] = [x, y], [width, node["size"][1]]
            y += node["size"][1] + _grows_by(node) + TITLE + BETWEEN
        if column in titles:
            left, _, bottom = boxes.get(titles[column], (x, 0, 0))
            boxes[titles[column]] = [left, x + width, max(bottom, y - TITLE - BETWEEN)]
        x += width + BESIDE
    top = TITLE + MARGIN + HEADING
    return [
        {"id": row, "title": title, "color": COLOUR, "font_size": FONT, "flags": {}}
        | {"bounding": [left - MARGIN, -top, right - left + 2 * MARGIN, bottom + top + MARGIN]}
        for row, (title, (left, right, bottom)) in enumerate(boxes.items(), 1)
    ]
