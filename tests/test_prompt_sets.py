"""Prompt files: what each protocol's columns mean, and that a bad row costs no other one."""

from __future__ import annotations

import pytest
from concept_erasure.erasure_core.evaluation.imagenette import CLASSES, SPLITS, imagenette
from concept_erasure.erasure_core.evaluation.prompt_sets import parse_prompt_set
from concept_erasure.erasure_core.evaluation.prompts import LOOK_ALIKE, RETAIN, TARGET, Prompt, prompt_groups


def parsed(text: str, *targets: str):
    """What a file of this text holds."""
    return parse_prompt_set(text.encode(), "set.csv", targets or ("church",))


def test_a_table_with_classes_is_divided_into_what_goes_and_what_stays() -> None:
    found = parsed("case_number,prompt,evaluation_seed,class\n0,A photo of a church,7,Church\n1,a tench,8,tench\n")
    assert found.prompts == (
        Prompt("A photo of a church", TARGET, "church", 7),
        Prompt("a tench", RETAIN, "tench", 8),
    )
    assert found.notes == ("set.csv: columns that were not read: case_number",)


def test_prompts_keep_their_own_seed_and_guidance() -> None:
    text = '\ufeffprompt;sd_seed;sd_guidance_scale\r\n"a nude; two";5;7.5\r\n\r\nNudes;;\r\n'
    found = parsed(text, "nude")
    assert found.prompts == (Prompt("a nude; two", TARGET, "nude", 5, 7.5), Prompt("Nudes", TARGET, "nude"))
    assert found.notes == ()


@pytest.mark.parametrize(
    ("target", "kept", "beside"), [("Van Gogh", "Cubism", ("Dogs", "Cats")), ("Dogs", "Cats", ("Van Gogh", "Cubism"))]
)
def test_a_grid_of_two_factors_asks_for_the_targets_own_factor(target: str, kept: str, beside: tuple) -> None:
    found = parsed("style,object,seed\nVan Gogh,Dogs,188\nCubism,Cats,188\n", target).prompts
    assert found[0] == Prompt("A Dogs image in Van Gogh style.", TARGET, target, 188, beside=beside[:1])
    assert found[1] == Prompt("A Cats image in Cubism style.", RETAIN, kept, 188, beside=beside[1:])


def test_a_group_column_decides() -> None:
    found = parsed(
        "prompt,group,class\na chapel,look-alike,chapel\na church,target,church\nsky,retain,sky\nsea,retain,\n"
    ).prompts
    assert [(prompt.group, prompt.concept) for prompt in found] == [
        (LOOK_ALIKE, "chapel"), (TARGET, "church"), (RETAIN, "sky"), (RETAIN, ""),
    ]  # fmt: skip


def test_a_bad_row_is_named_with_its_line_and_the_rest_is_kept() -> None:
    rows = [
        "good 1,1,1",
        "bad seed,x,1",
        ",2,1",
        f"{'long ' * 2000},3,1",
        "guidance,4,nan",
        "too, many,5,1",
        '"never closed,6,1',
        "good 2,7,2",
        '"it is ""good""\n3",8,3',
        "bad negative seed,-1,1",
        f"huge seed,{2**64},1",
        "?!,9,1",
        "good 4,10,",
    ]
    found = parsed("prompt,seed,guidance\n" + "\n".join(rows) + "\n", "good")
    assert [prompt.text for prompt in found.prompts] == ["good 1", "good 2", 'it is "good"\n3', "good 4"]
    told = [
        (3, "seed 'x'"),
        (4, "prompt is empty"),
        (5, "10000 characters|9999 characters"),
        (6, "guidance scale 'nan'"),
    ]
    told += [(7, "4 cells"), (8, "no row of a CSV"), (12, "seed '-1'"), (13, "seed"), (14, "no letter")]
    assert len(found.notes) == len(told)
    for note, (line, words) in zip(found.notes, told, strict=True):
        assert note.startswith(f"set.csv, line {line} was left out: ")
        assert any(word in note for word in words.split("|")), note


def test_text_that_is_not_utf8_costs_its_row() -> None:
    found = parse_prompt_set(b"prompt\ncaf\xe9\ntea\n", "set.csv", ["tea"])
    assert (
        [prompt.text for prompt in found.prompts] == ["tea"]
        and "line 2" in found.notes[0]
        and "UTF-8" in found.notes[0]
    )


def test_many_bad_rows_are_all_named() -> None:
    found = parsed("prompt,seed\na church,1\n" + "bad,x\n" * 30 + "churches,2\nbad,x\n")
    assert len(found.notes) == 11 and len(found.prompts) == 2
    assert found.notes[-1].endswith("21 more rows were left out, lines 13-32, 34")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "set.csv is empty"),
        ("text,seed\na,1\n", "line 1: there is no column 'prompt'.* there are 'text', 'seed'"),
        ("style,seed\na,1\n", "nor both 'style' and 'object'"),
        ("prompt,seed,sd_seed\na,1,2\n", "line 1: the columns 'seed', 'sd_seed' mean the same"),
        ("prompt,seed\na,x\n", "no usable row; line 2: the seed 'x'"),
        ("prompt\n", "no usable row"),
        ("prompt,class\na,tench\n", "no row says 'church' in its column class; there are 'tench'"),
        ("style,object\nCubism,Dogs\n", "in its column style or object"),
        ('"prompt\na\n', "line 1: it is no row"),
    ],
)
def test_a_file_without_use_says_why(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parsed(text)


def test_a_file_takes_the_place_of_the_concept_in_the_templates() -> None:
    found = prompt_groups(["circle"], ["a {}"], look_alikes="oval", from_file=[Prompt("round", TARGET, "circle", 3)])
    assert [prompt.text for prompt in found] == ["round", "a oval", ""]


@pytest.mark.parametrize("split", SPLITS)
def test_imagenette_knows_its_splits_and_asks_for_every_class_once(split: str) -> None:
    erased = SPLITS[split]
    found = imagenette([name.upper() for name in reversed(erased)])
    assert [prompt.text for prompt in found.prompts] == [f"Image of {name}" for name in CLASSES]
    gone = {prompt.concept for prompt in found.prompts if prompt.group == TARGET}
    kept = {prompt.concept for prompt in found.prompts if prompt.group == RETAIN}
    assert gone == {name.upper() for name in erased} and kept == set(CLASSES) - set(erased)
    assert f"split {split};" in found.notes[0]


def test_two_splits_leave_the_others_five_and_other_classes_are_no_split() -> None:
    for one, other in (("v1", "v2"), ("v3", "v4")):
        assert set(SPLITS[one]) | set(SPLITS[other]) == set(CLASSES) and len(SPLITS[one]) == 5
    assert "none of the published splits (1 of ten" in imagenette(["tench"]).notes[0]
    for targets, said in ((["tench", "cat"], "'cat' is no class"), (CLASSES, "none stays")):
        with pytest.raises(ValueError, match=f"{said}.*v1: cassette player, church"):
            imagenette(targets)
