"""Turn a workflow as the browser saves it into the prompt that the server runs. Standard library only."""

from __future__ import annotations

from collections.abc import Iterator

from ..hosting.errors import ToolError
from .subgraphs import INPUTS, SUBGRAPH, Link, expanded, inside

NEVER, BYPASS = 2, 4  # node modes
NOTES = ("Note", "MarkdownNote")
VIRTUAL = (*NOTES, "Reroute", "PrimitiveNode", INPUTS)  # known to the browser only
DYNAMIC_COMBO = "COMFY_DYNAMICCOMBO_V3"
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COLOR", "CURVE", DYNAMIC_COMBO)
SEEDS = ("seed", "noise_seed")


class WorkflowError(ToolError):
    """A workflow that does not fit the nodes the server has; the message names the node."""


def api_prompt(workflow: dict, object_info: dict) -> dict:
    """The API-format prompt of a UI-format workflow, as the browser would post it.

    Widget values are read by position in the order of `object_info`. Muted nodes fall away, bypassed ones hand their
    inputs on; what is inside a subgraph gets ids such as `5:12` and the instance's title behind its own. Raises
    WorkflowError for a node class the server lacks, or if the number of values does not fit.
    """
    nodes, links = expanded(workflow)
    prompt = {}
    for node_id, node in nodes.items():
        if node["type"] in VIRTUAL or SUBGRAPH in node or node.get("mode", 0) in (NEVER, BYPASS):
            continue
        if node["type"] not in object_info:
            raise WorkflowError(f"node {node_id}: the server has no node class {node['type']!r}")
        inputs = widget_values(node, object_info[node["type"]])
        for entry in node.get("inputs", []):
            if entry.get("link") is not None:
                _connect(inputs, entry["name"], _origin(links.get(entry["link"]), nodes, links), nodes)
        title = node.get("title") or object_info[node["type"]].get("display_name") or node["type"]
        title = ": ".join([title, *node.get("within", ())])
        prompt[node_id] = {"inputs": inputs, "class_type": node["type"], "_meta": {"title": title}}
    return prompt


def widget_values(node: dict, info: dict) -> dict:
    """A node's widget values by input id; those nested in a dynamic combo get dotted ids (`method.lr`)."""
    values = node.get("widgets_values") or []
    if isinstance(values, dict):
        return {name: _wrapped(value) for name, value in values.items()}
    rest = list(values)
    found = {name: _wrapped(value) for name, value in _read(rest, info["input"], "", node) if name}
    if rest and found:
        raise WorkflowError(
            f"node {node['id']} ({node['type']}): {len(rest)} widget values too many ({rest}); {list(found)} were read"
        )
    return found


def _read(rest: list, spec: dict, prefix: str, node: dict) -> Iterator[tuple[str, object]]:
    """Take the widgets of `spec` off the front of `rest`, in the order in which the browser lays them out."""
    uploads = 0
    for group in ("required", "optional"):
        for name, (kind, *more) in spec.get(group, {}).items():
            options = more[0] if more else {}
            if not _is_widget(kind, options):
                continue
            if not rest:
                raise WorkflowError(f"node {node['id']} ({node['type']}): there is no value for {prefix}{name}")
            value = rest.pop(0)
            yield prefix + name, value
            del rest[: _extra_values(kind, options, prefix + name)]
            if kind == DYNAMIC_COMBO:
                yield from _read(rest, _option(value, options, prefix + name, node), f"{prefix}{name}.", node)
            uploads += any(options.get(f"{what}_upload") for what in ("image", "animated_image", "video", "audio"))
        if uploads and rest and group == "required":
            del rest[:uploads]  # the upload buttons, which the browser adds after the required inputs
            uploads = 0


def _is_widget(kind: str | list, options: dict) -> bool:
    """Whether the browser draws a widget for an input rather than only a socket."""
    if options.get("forceInput"):
        return False
    return isinstance(kind, list) or options.get("widgetType", kind) in WIDGETS


def _extra_values(kind: str | list, options: dict, name: str) -> int:
    """How many values that are no input follow: what to do with a seed after a run, and a combo's filter."""
    control = options.get("control_after_generate")
    if kind == "INT" and control is None:
        return int(name in SEEDS)
    if not control:
        return 0
    return 2 if isinstance(kind, list) or kind == "COMBO" else 1


def _option(key: object, options: dict, name: str, node: dict) -> dict:
    """The inputs that a dynamic combo shows for the chosen option."""
    for option in options["options"]:
        if option["key"] == key:
            return option["inputs"]
    known = ", ".join(option["key"] for option in options["options"])
    raise WorkflowError(f"node {node['id']} ({node['type']}): {name} is {key!r}, which is none of {known}")


def _origin(origin: Link | None, nodes: dict, links: dict) -> Link | None:
    """Follow reroutes and bypassed nodes back to the output that really gives the value; None if there is none."""
    while origin is not None:
        node = nodes.get(origin[0])
        if node is None or node.get("mode", 0) == NEVER:
            return None
        active = node.get("mode", 0) != BYPASS
        if active and SUBGRAPH in node:
            origin = inside(node, origin[0], origin[1], links)
            continue
        if active and node["type"] not in ("Reroute", INPUTS):
            return origin
        entry = _passed_through(node, origin[1])
        origin = links.get(entry["link"]) if entry and entry.get("link") is not None else None
    return None


def _passed_through(node: dict, slot: int) -> dict | None:
    """The input that a reroute or a bypassed node hands on at an output: the one at the same place, else by type."""
    inputs = node.get("inputs", [])
    if node["type"] == INPUTS:
        return inputs[slot]
    if node["type"] == "Reroute":
        return inputs[0] if inputs else None
    kind = node["outputs"][slot]["type"]
    for entry in (*inputs[slot : slot + 1], *inputs):
        if entry["type"] == kind or "*" in (entry["type"], kind):
            return entry
    return None


def _connect(inputs: dict, name: str, origin: Link | None, nodes: dict) -> None:
    """Let an input take its value from a link; a link from nowhere leaves the widget's own value, if there is one."""
    if origin is None:
        return
    source = nodes[origin[0]]
    if source["type"] == "PrimitiveNode":
        inputs[name] = _wrapped(source["widgets_values"][0])
    else:
        inputs[name] = [origin[0], origin[1]]


def _wrapped(value: object) -> object:
    """A bare list would be read as a link."""
    return {"__value__": value} if isinstance(value, list) else value
