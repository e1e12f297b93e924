"""Workflows with subgraphs, as the server wants them: flat."""

from __future__ import annotations

import pytest

from devtools.workflows.api_prompt import api_prompt
from devtools.workflows.graph import Graph

INFO = {
    "Source": {"input": {"required": {"value": ["INT", {"default": 1}]}}, "output": ["N"], "output_name": ["n"]},
    "Add": {
        "input": {"required": {"one": ["N"], "other": ["N"], "by": ["INT", {"default": 2}]}},
        "output": ["N"],
        "output_name": ["n"],
    },
    "Show": {"input": {"required": {"n": ["N"]}}, "output": []},
}
for name, info in INFO.items():
    info |= {"python_module": "nodes", "display_name": name}


def workflow(mode: int = 0, nested: bool = False) -> dict:
    """Two instances of a subgraph that adds a number to its input, one behind the other."""
    graph = Graph("test", INFO)
    part = graph.part("Add to it")
    given, by = part.input("n", "N"), part.widget("by", "Add", "by", 2)
    (source,) = part.add("Source", 0, "Inner", {"value": 5})
    (added,) = part.add("Add", 1, "Sum", None, {"one": given, "other": source, "by": by})
    part.output("sum", added)
    if nested:
        outer = graph.part("Around it")
        outer.output("sum", outer.use(part, 0, "inside", None, {"n": outer.input("n", "N")})[0])
        part = outer
    (start,) = graph.add("Source", 0)
    (first,) = graph.use(part, 1, "first", {} if nested else {"by": 7}, {"n": start})
    (second,) = graph.use(part, 1, "second", None, {"n": first})
    graph.add("Show", 2, "", None, {"n": second})
    made = graph.workflow()
    for node in made["nodes"]:
        if node.get("title") == "second":
            node["mode"] = mode
    return made


def by_title(prompt: dict) -> dict[str, tuple[str, dict]]:
    return {entry["_meta"]["title"]: (node, entry["inputs"]) for node, entry in prompt.items()}


def test_what_is_inside_gets_the_instances_ends_and_widgets():
    found = by_title(api_prompt(workflow(), INFO))
    start, (first, inputs) = found["Source"][0], found["Sum: first"]
    assert inputs == {"one": [start, 0], "other": [found["Inner: first"][0], 0], "by": 7}
    second, inputs = found["Sum: second"]
    assert inputs == {"one": [first, 0], "other": [found["Inner: second"][0], 0], "by": 2}
    assert found["Show"][1] == {"n": [second, 0]}
    assert first.count(":") == 1 and len(found) == 6


def test_a_subgraph_within_a_subgraph():
    found = by_title(api_prompt(workflow(nested=True), INFO))
    first, inputs = found["Sum: inside: first"]
    assert first.count(":") == 2 and inputs["one"] == [found["Source"][0], 0]
    assert found["Sum: inside: second"][1]["one"] == [first, 0]
    assert found["Show"][1] == {"n": [found["Sum: inside: second"][0], 0]}


@pytest.mark.parametrize(("mode", "origin"), [(4, "Sum: first"), (2, None)])
def test_a_bypassed_instance_hands_on_and_a_muted_one_gives_nothing(mode, origin):
    found = by_title(api_prompt(workflow(mode), INFO))
    assert not any("second" in title for title in found)
    assert found["Show"][1] == ({"n": [found[origin][0], 0]} if origin else {})


def test_an_instance_without_values_keeps_those_inside():
    """As the host's own blueprints are saved."""
    made = workflow()
    for node in made["nodes"]:
        if node.get("title") == "first":
            node["widgets_values"] = []
    assert by_title(api_prompt(made, INFO))["Sum: first"][1]["by"] == 2


def test_ids_are_given_once_in_a_whole_workflow():
    made = workflow(nested=True)
    ids = [node["id"] for level in (made, *made["definitions"]["subgraphs"]) for node in level["nodes"]]
    assert len(set(ids)) == len(ids) and made["last_node_id"] == max(ids)


def test_an_unknown_input_of_an_instance_is_an_error():
    graph = Graph("test", INFO)
    part = graph.part("empty")
    part.output("n", part.add("Source", 0)[0])
    with pytest.raises(KeyError, match="has no widget by"):
        graph.use(part, 0, values={"by": 1})
    with pytest.raises(KeyError, match="has no input m"):
        graph.use(part, 0, links={"m": graph.add("Source", 0)[0]})
