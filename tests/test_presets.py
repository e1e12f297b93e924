"""Presets: what they fill in fits every method, and is what the help page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from concept_erasure.erasure_core.method import methods, settings_of
from concept_erasure.nodes.inputs.presets import (
    CUSTOM,
    DEFAULT,
    EFFORTS,
    SUBJECTS,
    preset_names,
    preset_note,
    preset_settings,
)

PAGE = Path(__file__).parent.parent / "web" / "docs" / "ErasureEraseConcept" / "en.md"
METHODS = methods()
NAMES = [name for name in preset_names() if name != CUSTOM]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("method", METHODS)
def test_a_preset_is_within_the_ranges_of_every_method(method: str, name: str) -> None:
    values = preset_settings(METHODS[method], name)
    made = METHODS[method](**values)
    assert values and all(type(getattr(made, setting)) is type(value) for setting, value in values.items())


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_all_presets_decide_the_same_settings_and_the_first_one_is_the_defaults(method: type) -> None:
    """So that of two presets chosen one after another nothing of the first is left."""
    decided = {name: preset_settings(method, name) for name in NAMES}
    assert len({tuple(sorted(values)) for values in decided.values()}) == 1
    assert len({tuple(values.items()) for values in decided.values()}) > 1, "they all say the same"
    defaults = {field.name: field.default for field in settings_of(method)}
    assert decided[DEFAULT].items() <= defaults.items()
    assert preset_settings(method, CUSTOM) == {}


def test_every_setting_of_a_preset_belongs_to_some_method() -> None:
    have = {field.name for method in METHODS.values() for field in settings_of(method)}
    assert {setting for wanted in SUBJECTS.values() for setting in wanted} <= have


def test_how_long_is_a_share_of_the_default_steps_within_their_range() -> None:
    assert [preset_settings(METHODS["ap"], f"style, {effort}")["steps"] for effort in EFFORTS] == [50, 100, 200]
    assert [preset_settings(METHODS["uce"], f"style, {effort}")["sentences"] for effort in EFFORTS] == [12, 24, 48]


def test_an_unknown_preset_is_refused_with_the_list() -> None:
    with pytest.raises(ValueError, match=r"unknown preset 'styles'; choose one of object, quick, .*custom"):
        preset_settings(METHODS["ap"], "styles")


def test_the_report_names_what_a_run_did_not_take_from_its_preset() -> None:
    values = preset_settings(METHODS["ap"], "nudity, quick")
    assert preset_note(METHODS["ap"](**values), "nudity, quick") == "preset: nudity, quick"
    changed = METHODS["ap"](**(values | {"steps": 7, "rank": 3}))
    assert preset_note(changed, "nudity, quick") == "preset: nudity, quick, changed: steps 7 for 50"


def test_the_help_page_says_what_the_presets_fill_in() -> None:
    text = PAGE.read_text(encoding="utf-8")
    rows = dict(re.findall(r"^- `(\w+)`: (.+)$", text, re.MULTILINE))
    for subject, wanted in SUBJECTS.items():
        assert dict(re.findall(r"`(\w+)` `(\w+)`", rows[subject])) == wanted
    shares = {"half of the": 0.5, "the": 1.0, "twice the": 2.0}
    assert {effort: shares[rows[effort].removesuffix(" default `steps`")] for effort in EFFORTS} == EFFORTS
