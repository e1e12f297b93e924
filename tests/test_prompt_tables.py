"""Tables with the headers of published ones: what each says of the concept, and that one which says nothing is refused.

Rows and names are made up; docs/evaluation.md says in which table each header was seen.
"""

from __future__ import annotations

import pytest
from concept_erasure.erasure_core.evaluation.prompt_sets import parse_prompt_set
from concept_erasure.erasure_core.evaluation.prompts import RETAIN, TARGET, prompt_groups

I2P = (
    ",prompt,categories,hard,inappropriate_percentage,nudity_percentage,q16_percentage,sd_safety_percentage,"
    "prompt_toxicity,lexica_url,evaluation_seed,evaluation_guidance,sd_image_width,sd_image_height,sd_model,case_number\n"
)
I2P_ROWS = (
    '0,a drawing by somebody,"violence, sexual",0,1,1,0,1,0.1,u,71,7,512,512,m,0\n'
    "1,a loud person,harassment,0,1,1,0,1,0.1,u,72,9.5,512,128,m,1\n"
)


def parsed(text: str, *targets: str, name: str = "set.csv"):
    """What a file of this text holds."""
    return parse_prompt_set(text.encode(), name, targets)


def groups(found) -> list[tuple[str, str]]:
    """Group and concept of every prompt."""
    return [(prompt.group, prompt.concept) for prompt in found.prompts]


@pytest.mark.parametrize(
    ("text", "target", "kept"),
    [
        ("case_number,prompt,label_str,evaluation_seed\n0,Image of Gas Pump,Gas Pump,1\n1,Image of Church, Church,2\n",
         "gas pump", "Church"),
        (",case_number,evaluation_seed,prompt,label_idx,label_str\n0,0,1,x,571,gas pump\n1,1,2,y,594, harp\n",
         "gas pump", "harp"),
        (",case_number,prompt,evaluation_seed,class\n0,0,Image of gas pump,1,gas pump\n1,1,a harp,2,harp\n",
         "gas pump", "harp"),
        (",case_number,prompt,evaluation_seed,artist\n0,0,a lake by A. Painter,1,A. Painter\n1,1,a sea,2,B. Drawer\n",
         "A. Painter", "B. Drawer"),
        ("case_number,prompt,evaluation_seed,profession\n0,Image of Doctor,1,Doctor\n1,Image of Chef,2,Chef\n",
         "doctor", "Chef"),
    ],
)  # fmt: skip
def test_a_column_that_names_what_is_shown_divides_the_rows(text: str, target: str, kept: str) -> None:
    found = parsed(text, target)
    assert groups(found) == [(TARGET, target), (RETAIN, kept)]
    assert [prompt.seed for prompt in found.prompts] == [1, 2]
    assert "case_number" in found.notes[0]


def test_an_edit_that_does_nothing_scores_nothing_on_the_table_of_ap() -> None:
    """Read without label_str every class counted as one to be gone, and the pictures of the others as success."""
    rows = "".join(f"{i},Image of {name},{name},{i}\n" for i, name in enumerate(["Church", "Tench", "Church", "Tench"]))
    found = parsed(f"case_number,prompt,label_str,evaluation_seed\n{rows}", "Church")
    assert [prompt.text for prompt in found.prompts if prompt.group == TARGET] == ["Image of Church"] * 2


def test_an_artist_may_be_called_by_the_family_name_and_that_is_said() -> None:
    text = "prompt,artist\na field,Vincent van Gogh\na face,Pablo Picasso\na tree,Someone Else\n"
    found = parsed(text, "Van Gogh", "Picasso", "Monet")
    assert groups(found) == [(TARGET, "Van Gogh"), (TARGET, "Picasso"), (RETAIN, "Someone Else")]
    assert found.notes == (
        "set.csv: the artist 'Vincent van Gogh' is taken for 'Van Gogh'",
        "set.csv: the artist 'Pablo Picasso' is taken for 'Picasso'",
        "set.csv: no row says 'Monet'",
    )


def test_the_type_of_mace_divides_its_celebrities_and_rows_of_others_than_the_concepts_are_left_out() -> None:
    text = (
        ",type,prompt,evaluation_seed\n0,erased,A portrait of Ann Actor,1\n1,erased,A portrait of Bob Singer,1\n"
        "2,others,Cid Dancer in an official photo,5\n3,others,Ann Actor again,5\n"
    )
    found = parsed(text, "ann actor")
    assert groups(found) == [(TARGET, "ann actor"), (RETAIN, "")]
    assert "line 3 was left out: its type is 'erased', but its prompt says 'A portrait of Bob" in found.notes[0]
    assert "line 5 was left out: its type is 'others'" in found.notes[1] and "was erased" in found.notes[1]


def test_the_type_beside_the_artist_names_rows_that_contradict_it() -> None:
    text = ",type,artist,prompt,evaluation_seed\n0,0,A. Painter,x,1\n1,0,B. Drawer,x,1\n2,1,C. Potter,x,1\n"
    found = parsed(text, "A. Painter")
    assert groups(found) == [(TARGET, "A. Painter"), (RETAIN, "C. Potter")]
    assert "its type is '0', but its artist is 'B. Drawer', which is none of the concepts" in found.notes[0]
    uce = ",case_number,prompt,evaluation_seed,artist,type\n0,0,x,1,A. Painter,erased\n1,1,x,1,C. Potter,holdout\n"
    assert groups(parsed(uce, "A. Painter")) == [(TARGET, "A. Painter"), (RETAIN, "C. Potter")]


def test_a_column_called_type_that_says_something_else_is_not_read() -> None:
    found = parsed("prompt,type,class\na church,photo,church\na harp,oil,harp\n", "church")
    assert groups(found) == [(TARGET, "church"), (RETAIN, "harp")] and found.notes[-1].endswith("not read: type")


def test_i2p_is_of_the_concept_as_a_whole_unless_that_is_one_of_its_categories() -> None:
    found = parsed(I2P + I2P_ROWS, "nudity")
    assert groups(found) == [(TARGET, "nudity")] * 2 and "every row counts as a target, as I2P" in found.notes[0]
    assert [prompt.size for prompt in found.prompts] == [(512, 512), (512, 128)]
    assert [prompt.guidance_scale for prompt in found.prompts] == [7, 9.5]
    assert "nudity_percentage" in found.notes[1] and "sd_image_width" not in found.notes[1]
    one = parsed(I2P + I2P_ROWS, "Violence")
    assert groups(one) == [(TARGET, "Violence")] and "1 rows of other categories" in one.notes[0]


def test_captions_stay_and_the_concept_is_asked_for_in_the_templates() -> None:
    found = parsed("image_id,source,prompt,evaluation_seed,width,height\n3,coco-30k,A cup.,7,640,427\n", "church")
    assert groups(found) == [(RETAIN, "")] and found.prompts[0].size == (640, 427)
    texts = [prompt.text for prompt in prompt_groups(["church"], ["a {}"], from_file=found.prompts)]
    assert texts == ["a church", "A cup.", ""]


def test_a_table_without_a_word_on_the_concept_is_refused_unless_every_prompt_or_the_file_says_it() -> None:
    text = "case_number,prompt,evaluation_seed,evaluation_guidance\n0,An old church.,5,7.5\n1,A stone tower.,6,7.5\n"
    with pytest.raises(ValueError, match=r"no column says.*not read: case_number.*1 of 2.*line 3: 'A stone tower\.'"):
        parsed(text, "church")
    with pytest.raises(ValueError, match="do not say 'art'"):
        parsed("prompt\na cart\n", "art")
    found = parsed(text, "Garbage Truck", name="garbage_truck.csv")
    assert groups(found) == [(TARGET, "Garbage Truck")] * 2 and "is called like" in found.notes[0]
    assert groups(parsed(text.replace("tower", "churches"), "church")) == [(TARGET, "church")] * 2


def test_a_table_of_which_no_row_shows_the_concept_is_refused() -> None:
    for text in ("type,prompt\nerased,Bob Singer\nothers,Cid Dancer\n", "artist,type,prompt\nB. Drawer,others,x\n"):
        with pytest.raises(ValueError, match=r"'Ann Actor'"):
            parsed(text, "Ann Actor")


def test_unlearn_canvas_spells_with_underscores_and_calls_photos_seed_images() -> None:
    text = "theme,object,seed\nVan_Gogh,Dogs,188\nSeed_Images,Dogs,188\nPencil_Drawing,Human,288\n"
    style = parsed(text, "van gogh")
    assert [prompt.text for prompt in style.prompts] == [
        "A Dogs image in Van Gogh style.", "A Dogs image in Photo style.", "A Human image in Pencil Drawing style.",
    ]  # fmt: skip
    assert groups(style) == [(TARGET, "van gogh"), (RETAIN, "Seed Images"), (RETAIN, "Pencil Drawing")]
    assert [prompt.beside for prompt in style.prompts] == [("Dogs",), ("Dogs",), ("Human",)]
    assert groups(parsed(text, "Seed_Images")) == [
        (RETAIN, "Van Gogh"),
        (TARGET, "Seed_Images"),
        (RETAIN, "Pencil Drawing"),
    ]
    assert groups(parsed(text, "photo"))[1] == (TARGET, "photo")
    both = parsed(text, "Dogs")
    assert [prompt.beside for prompt in both.prompts] == [("Van Gogh",), ("Seed Images",), ("Pencil Drawing",)]


@pytest.mark.parametrize("size", ["x,512", "512,8", "512,99999", "512,-8", ",512"])
def test_a_size_that_is_none_costs_its_row(size: str) -> None:
    found = parsed(f"prompt,width,height\na church,{size}\na church,64,128\nchurches,,\n", "church")
    assert [prompt.size for prompt in found.prompts] == [(64, 128), None]
    assert "line 2 was left out: the " in found.notes[0] and "whole number from 16 to 8192" in found.notes[0]


def test_a_width_without_a_height_is_not_read() -> None:
    found = parsed("prompt,width\na church,64\n", "church")
    assert found.prompts[0].size is None and found.notes == ("set.csv: columns that were not read: width",)
