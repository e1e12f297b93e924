"""Lay a workflow's subgraphs out flat, as the server, which knows none, wants it. Standard library only."""

from __future__ import annotations

SUBGRAPH = "subgraph"
"""The key under which an instance of a subgraph carries its definition."""
INPUTS = "subgraph inputs"
"""The class of the stand-in for a subgraph's own inputs: its inputs are those of the instance around it."""
_INPUTS_ID = -10

Link = tuple[str, int]
"""Where a value comes from: node id, output slot."""


def expanded(workflow: dict) -> tuple[dict[str, dict], dict]:
    """Every node by its id, `5:12` for node 12 inside the instance 5, and where each link comes from.

    An instance stays, with its definition under SUBGRAPH, so that links can be followed through it; beside it stands a
    stand-in of class INPUTS. A widget that the instance shows is a PrimitiveNode. Links are known by prefix and id.
    """
    definitions = {part["id"]: part for part in workflow.get("definitions", {}).get("subgraphs", [])}
    nodes: dict[str, dict] = {}
    links: dict[tuple[str, int], Link] = {}
    _expand(workflow, "", (), definitions, nodes, links)
    return nodes, links


def inside(instance: dict, node_id: str, slot: int, links: dict) -> Link | None:
    """Where an output of an instance really comes from; None if nothing is linked to it."""
    ids = instance[SUBGRAPH]["outputs"][slot].get("linkIds") or []
    return links.get((f"{node_id}:", ids[0])) if ids else None


def _expand(
    level: dict, prefix: str, within: tuple[str, ...], definitions: dict, nodes: dict[str, dict], links: dict
) -> None:
    for link in level.get("links", []):
        link_id, origin, slot = _origin_of(link)
        links[prefix, link_id] = (f"{prefix}{origin}", slot)
    for node in level["nodes"]:
        node_id = f"{prefix}{node['id']}"
        nodes[node_id] = node = _linked_from(node, prefix)
        if within:
            node["within"] = within
        part = definitions.get(node["type"])
        if part is not None:
            node[SUBGRAPH] = part
            _add_stand_in(node, node_id, nodes, links)
            mode = node.get("mode", 0)
            title = node.get("title") or part.get("name", "")
            if mode == 0:  # of a muted or bypassed instance nothing runs
                _expand(part, f"{node_id}:", (title, *within), definitions, nodes, links)


def _origin_of(link: list | dict) -> tuple[int, int, int]:
    """Id and origin of a link, in either of the two ways the browser writes them."""
    return (link["id"], link["origin_id"], link["origin_slot"]) if isinstance(link, dict) else tuple(link[:3])


def _linked_from(node: dict, prefix: str) -> dict:
    """A copy whose inputs name their links by prefix and id."""
    inputs = [
        entry | {"link": (prefix, entry["link"])} if entry.get("link") is not None else dict(entry)
        for entry in node.get("inputs", [])
    ]
    return node | {"inputs": inputs}


def _add_stand_in(instance: dict, node_id: str, nodes: dict[str, dict], links: dict) -> None:
    """Let the ends inside take their values from the instance: from its links, else from the widgets that it shows."""
    given = {entry["name"]: entry for entry in instance["inputs"]}
    shown = [entry["name"] for entry in instance["inputs"] if entry.get("widget")]
    values = dict(zip(shown, instance.get("widgets_values") or [], strict=False))
    inputs = []
    for end in instance[SUBGRAPH]["inputs"]:
        entry = given.get(end["name"], {"name": end["name"], "type": end["type"], "link": None})
        if entry.get("link") is None and end["name"] in values:
            widget = f"{node_id}:{_INPUTS_ID}:{end['name']}"
            nodes[widget] = {
                "id": widget,
                "type": "PrimitiveNode",
                "widgets_values": [values[end["name"]]],
                "inputs": [],
            }
            links[widget, 0] = (widget, 0)
            entry = entry | {"link": (widget, 0)}
        inputs.append(entry)
    nodes[f"{node_id}:{_INPUTS_ID}"] = {"id": node_id, "type": INPUTS, "inputs": inputs, "outputs": []}
