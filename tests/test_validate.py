"""What ComfyUI refuses before it loads a checkpoint, as it asks the nodes: linked inputs are None, others are as typed."""

from __future__ import annotations

import pytest

from devtools.hosting.inprocess import load_comfy

load_comfy()

from concept_erasure.nodes.adversarial import FindAdversarialConcept  # noqa: E402
from concept_erasure.nodes.erase import EraseConcept  # noqa: E402
from concept_erasure.nodes.evaluate import EvaluateErasure  # noqa: E402
from concept_erasure.nodes.red_team import RedTeamConcept  # noqa: E402
from concept_erasure.nodes.red_team_summary import RedTeamSummary  # noqa: E402
from concept_erasure.nodes.sae import TrainConceptSAE  # noqa: E402

SIZED = (EraseConcept, FindAdversarialConcept, EvaluateErasure, RedTeamConcept, RedTeamSummary, TrainConceptSAE)


def values(node: type, **changes: object) -> dict[str, object]:
    """What `node` is asked about, all of it right but for `changes`."""
    right = {
        "concepts": "cat",
        "concept": "cat",
        "retain": "dog",
        "candidates": "dog",
        "templates": "a {}",
        "attacks": "noise",
    }
    asked = node.validate_inputs.__func__.__code__.co_varnames[1 : node.validate_inputs.__func__.__code__.co_argcount]
    right |= {"width": 512, "height": 512, "method": {"method": "ap"}, "attack": {"attack": "noise"}}
    return {name: right[name] for name in asked} | changes


@pytest.mark.parametrize("node", SIZED)
def test_what_is_right_or_linked_passes(node: type) -> None:
    assert node.validate_inputs(**values(node)) is True
    assert node.validate_inputs(**dict.fromkeys(values(node))) is True
    assert node.validate_inputs() is True, "an optional input that the workflow does not name"


@pytest.mark.parametrize("node", SIZED)
def test_a_dynamic_combo_is_taken_as_the_host_passes_it(node: type) -> None:
    """ComfyUI 0.30 calls validate_inputs with every dynamic combo of the schema, also one that it does not ask for."""
    from comfy_api.latest import io

    combos = {entry.id for entry in node.define_schema().inputs if isinstance(entry, io.DynamicCombo.Input)}
    assert combos <= set(values(node))


@pytest.mark.parametrize("node", SIZED)
@pytest.mark.parametrize(
    ("width", "said"), [(513, "no multiple of 8; try 512"), (8, "outside 16 to"), (9000, "outside 16 to")]
)
def test_sizes_are_refused(node: type, width: int, said: str) -> None:
    for name in ("width", "height"):
        refused = node.validate_inputs(**values(node, **{name: width}))
        assert str(refused).startswith(f"{name} is {width}") and said in str(refused)


@pytest.mark.parametrize(
    ("node", "changes", "said"),
    [
        (EraseConcept, {"concepts": ""}, "no concept to erase: write at least one"),
        (EraseConcept, {"concepts": "cat <- dog"}, "holds '<'"),
        (EraseConcept, {"concepts": "cat => cow\ncow"}, "makes a concept into 'cow'"),
        (EraseConcept, {"retain": "CAT"}, "to be erased and to be retained at once"),
        (EraseConcept, {"concepts": None, "retain": "dog -> cow"}, "holds '->'"),
        (FindAdversarialConcept, {"concepts": " "}, "no concept to erase"),
        (FindAdversarialConcept, {"candidates": "dog -> cow"}, "holds '->'"),
        (EvaluateErasure, {"concepts": ""}, "no concept to erase"),
        (EvaluateErasure, {"templates": "a photo"}, "has no {} for the concept"),
        (RedTeamConcept, {"concept": ""}, "a concept is empty"),
        (RedTeamConcept, {"concept": "cat -> dog"}, "holds '->'"),
        (RedTeamSummary, {"attacks": "noize"}, "attacks, line 1: unknown attack 'noize'"),
        (RedTeamSummary, {"attacks": "noise tries=0"}, "attacks, line 1: "),
    ],
)
def test_texts_that_cannot_be_meant_are_refused(node: type, changes: dict, said: str) -> None:
    assert said in str(node.validate_inputs(**values(node, **changes)))


@pytest.mark.parametrize(
    "node", [EraseConcept, FindAdversarialConcept, EvaluateErasure, RedTeamConcept, RedTeamSummary]
)
def test_no_node_names_a_concept_by_itself(node: type) -> None:
    (field,) = [one for one in node.define_schema().inputs if one.id in ("concept", "concepts")]
    assert field.default == "" and field.placeholder
