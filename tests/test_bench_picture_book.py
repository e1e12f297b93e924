"""What the bench on the picture book asks, and what it makes of the answers."""

from __future__ import annotations

import pytest

from benchmarks import picture_book as bench
from benchmarks.book_cases import CASES, OBJECTS, TEN
from benchmarks.instruments.runs import DOCS
from devtools.pages import filled
from playground.picture_book.weights import stored_things
from playground.picture_book.words import SYNONYMS
from testbed.measure_book import CATEGORY, LOOK_ALIKE, MEMBER, SYNONYM, TARGET, UNRELATED, prompts_of

THINGS = stored_things()
SUBGROUP = {thing.name: thing.subgroup for thing in THINGS}


def test_the_objects_are_of_different_subgroups_and_have_synonyms_and_look_alikes() -> None:
    assert len({SUBGROUP[name] for name in OBJECTS}) == len(OBJECTS) >= 8
    assert all(SYNONYMS[name] for name in OBJECTS) and len({SUBGROUP[name] for name in TEN}) == len(TEN) == 10


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_no_group_asks_for_what_another_group_stands_for(case) -> None:
    asked = prompts_of(case, THINGS, bench.COUNTS[case.kind], seed=0)
    assert sum(map(len, asked.values())) == 200 and {TARGET, LOOK_ALIKE, UNRELATED} - set(asked) <= {LOOK_ALIKE}
    if case.kind == "style":
        erased = case.targets[0].split()[0]
        assert {prompt.style for prompt in asked[TARGET]} == {erased}
        assert not {erased, ""} & {prompt.style for prompt in asked[LOOK_ALIKE]}
        assert {prompt.style for prompt in asked[UNRELATED]} == {""}
        return
    erased = {CATEGORY[1]} if case.kind == "category" else {SUBGROUP[name] for name in case.targets}
    for group in (LOOK_ALIKE, UNRELATED):
        for prompt in asked.get(group, []):
            (thing,) = prompt.things
            assert thing not in case.targets and (SUBGROUP[thing] in erased) == (group == LOOK_ALIKE)
    if case.kind == "category":
        assert all(CATEGORY[0] in prompt.text.split() for prompt in asked[TARGET])
        assert {SUBGROUP[prompt.things[0]] for prompt in asked[MEMBER]} == erased
    else:
        assert all(set(prompt.things) <= set(case.targets) for prompt in asked[SYNONYM])
        assert not any(name in prompt.text.split() for prompt in asked[SYNONYM] for name in case.targets)


def row(variant: str, esr: int, psr: int, seed: int = 0) -> dict:
    """A row of 10 pictures a group, half of them with a style."""
    group = {"n": 10, "top5": 10, "styled": 5, "style": 5, "drift": 1.0}
    groups = {TARGET: group | {"top1": 10 - esr}, LOOK_ALIKE: group | {"top1": psr}, UNRELATED: group | {"top1": psr}}
    return {"variant": variant, "case": "cat", "kind": "thing", "seed": seed, "costs": {}, "groups": groups}


def test_scores_are_per_cent_of_each_groups_own_pictures() -> None:
    found = bench.scores(row("ap", esr=9, psr=8))
    assert (found["esr1"], found["psr1"], found["look_alike"], found["other_factor"]) == (90, 80, 80, 100)
    assert found["synonym"] is None and bench.harmonic(row("ap", 9, 8)) == pytest.approx(3 / (1 / 90 + 2 / 80))


def test_a_style_is_judged_by_the_judge_of_styles() -> None:
    of_style = row("ap", 0, 8) | {"kind": "style"}
    found = bench.scores(of_style)
    assert (found["esr1"], found["other_factor"], found["esr5"]) == (0, 100, None)


def test_differences_are_paired_by_case_and_seed() -> None:
    rows = [row("ap", 9, 9, seed) for seed in range(3)] + [row("esd", 9, 9, seed) for seed in range(3)]
    assert "| esd | +0.0 ± 0.0 | 3 |" in bench.compared(rows)
    rows += [row("uce", 9, 9, seed=7)]
    assert "uce" not in bench.compared(rows), "no pair of the same seed"


@pytest.mark.parametrize("table", ["methods", "cases", "compared"])
def test_the_page_has_a_place_for_each_table(table) -> None:
    """A series of hours must not end with "the page needs the lines"."""
    page = DOCS / "picture_book.md"
    assert "| measured |" in filled(page.read_text(encoding="utf-8"), table, bench.BY, "| measured |", page)
