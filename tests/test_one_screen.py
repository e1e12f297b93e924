"""What a node shows at first, and what Erase Concept's preset and strength do on the server; the page itself is tried by
`tests/browser/one_screen.mjs`."""

from __future__ import annotations

import asyncio
import inspect
import json
from types import SimpleNamespace

import pytest
import torch
from concept_erasure.erasure_core.method import methods
from concept_erasure.nodes.inputs.presets import preset_names, preset_settings
from erasure_tests.runs import base_hash

from devtools.hosting.inprocess import load_comfy
from testbed.playground import Playground

MOST = 10
LONGEST_TOOLTIP = 250
METHOD = {"method": "uce", "sentences": 2, "candidates": 4, "kept_sentences": 0, "vocabulary": "shapes_and_colours"}


@pytest.fixture(scope="module")
def info() -> dict:
    """Node id -> what the page is told of it, after a way through JSON."""
    load_comfy()
    from concept_erasure.nodes.extension import ConceptErasure

    async def found() -> list:
        extension = ConceptErasure()
        await extension.on_load()
        return await extension.get_node_list()

    nodes = asyncio.run(found())
    return {node.define_schema().node_id: json.loads(json.dumps(node.GET_NODE_INFO_V1())) for node in nodes}


def specs(entry: dict) -> dict:
    """Input name -> (type, options), the nested ones as `method.ap.steps`."""
    found = {}
    for kind in ("required", "optional"):
        for name, (type_, options) in entry["input"].get(kind, {}).items():
            found[name] = (type_, options)
            for option in options.get("options", []) if type_ == "COMFY_DYNAMICCOMBO_V3" else []:
                nested = specs({"input": option["inputs"]})
                found |= {f"{name}.{option['key']}.{inner}": spec for inner, spec in nested.items()}
    return found


def has_widget(type_: object) -> bool:
    """Whether the page draws a widget for an input of this type."""
    return isinstance(type_, list) or type_ in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3")


def test_a_node_shows_few_widgets_and_the_settings_only_behind_advanced(info: dict) -> None:
    for node, entry in info.items():
        at_once = [name for name, (kind, more) in specs(entry).items() if has_widget(kind) and not more.get("advanced")]
        assert len(at_once) <= MOST, f"{node} shows {at_once}"
        assert not any("." in name for name in at_once), f"{node} shows settings: {at_once}"
    erase = specs(info["ErasureEraseConcept"])
    shown = {name for name, (kind, more) in erase.items() if has_widget(kind) and not more.get("advanced")}
    assert shown == {"concepts", "method", "width", "height", "seed", "retain", "preset", "strength"}


def test_tooltips_are_short(info: dict) -> None:
    long = {
        f"{node}.{name}": len(more["tooltip"])
        for node, entry in info.items()
        for name, (_, more) in specs(entry).items()
        if len(more.get("tooltip", "")) > LONGEST_TOOLTIP
    }
    assert not long


def test_the_page_is_told_labels_and_presets_from_the_one_place(info: dict) -> None:
    erase = specs(info["ErasureEraseConcept"])
    labels, preset = erase["method"][1]["labels"], erase["preset"][1]
    assert set(labels) == set(methods()) and len(set(labels.values())) == len(labels)
    assert labels["ap"] == "Adversarial preservation (ap)"
    assert all(label.endswith(f" ({name})") and len(label) > len(name) + 8 for name, label in labels.items())
    assert preset["options"] == list(preset_names()) and preset["default"] in preset["options"]
    assert preset["settings"] == {
        name: {each: preset_settings(kind, each) for each in preset_names()} for name, kind in methods().items()
    }
    assert specs(info["ErasureRedTeam"])["attack"][1]["labels"]["p4d"].endswith(" (p4d)")


def test_what_was_saved_before_lacks_nothing(info: dict) -> None:
    """New inputs are the last of the node and may be absent, both in a page's file and in an API prompt."""
    order = info["ErasureEraseConcept"]["input_order"]
    assert order["optional"][-2:] == ["preset", "strength"]
    from concept_erasure.nodes.erase import EraseConcept

    parameters = inspect.signature(EraseConcept.execute).parameters
    assert (parameters["preset"].default, parameters["strength"].default) == ("custom", 1.0)


def test_a_setting_that_is_a_method_now_is_no_setting_any_more_and_its_method_has_settings_of_the_old_one(
    info: dict,
) -> None:
    erase = specs(info["ErasureEraseConcept"])
    for name, settings in erase["method"][1]["moved"].items():
        for setting, becomes in settings.items():
            assert f"method.{name}.{setting}" not in erase
            for other in becomes.values():
                mine = {key.rsplit(".", 1)[1] for key in erase if key.startswith(f"method.{other}.")}
                assert mine and all(f"method.{name}.{one}" in erase for one in mine), "the page could not fill it in"


def test_an_api_prompt_that_asks_for_what_is_a_method_now_is_told_so(monkeypatch) -> None:
    import execution
    from concept_erasure.nodes.erase import EraseConcept

    def started(schedule: str) -> None:
        inputs = {
            "concepts": "circle",
            "method": "ap",
            "method.schedule": schedule,
            "width": 64,
            "height": 64,
            "seed": 0,
        }
        values, _, _ = execution.get_input_data(inputs, EraseConcept, "1")
        given = {name: value for name, (value,) in values.items()} | {"method": {"method": "ap"}}
        EraseConcept.execute(None, None, **given)

    monkeypatch.setattr(EraseConcept, "hidden", SimpleNamespace(unique_id=None), raising=False)
    with pytest.raises(
        ValueError, match="ap has no setting schedule any more; for reference choose the method ap_reference"
    ):
        started("reference")
    with pytest.raises(ValueError, match="the linked MODEL is empty"):  # so it began
        started("fast")


@pytest.mark.usefixtures("as_a_node_runs", "few_words")
def test_strength_scales_the_model_as_apply_does_and_leaves_the_edit_alone(testbed: Playground, monkeypatch) -> None:
    from concept_erasure.nodes.erase import EraseConcept
    from concept_erasure.nodes.erased_unet import apply

    monkeypatch.setattr(EraseConcept, "hidden", SimpleNamespace(unique_id=None), raising=False)
    before = base_hash(testbed)

    def made(**more):
        return EraseConcept.execute(testbed.model, testbed.clip, "circle", dict(METHOD), 64, 64, 0, **more).args

    (whole, edit, _, plain), (half, same, _, told) = made(), made(strength=0.5, preset="style, quick")
    none, *_ = made(strength=0.0)
    assert edit.tensors.keys() == same.tensors.keys()
    assert all(torch.equal(edit.tensors[key], same.tensors[key]) for key in edit.tensors)
    key = next(iter(apply(testbed.model, edit, 0.5).patches))
    for model, strength in ((whole, 1.0), (half, 0.5)):
        assert [patch[0] for patch in model.patches[key]] == [strength]
        assert model.patches.keys() == apply(testbed.model, edit, strength).patches.keys()
    assert none.patches == testbed.model.patches and none is not testbed.model
    assert "preset" not in plain
    assert "- preset: style, quick, changed: vocabulary shapes_and_colours for art_styles, sentences 2 for 12" in told
    assert base_hash(testbed) == before
