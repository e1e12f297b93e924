"""What the two text fields say, and what is refused."""

from __future__ import annotations

import pytest
from concept_erasure.erasure_core.concepts import ConceptPair, arrow_parts, parse_request


def test_fields_are_read_line_by_line() -> None:
    request = parse_request(" circle \n# a comment\n\ncat => dog\nVan Gogh=>", "square\n\nred\nsquare")
    assert request.pairs == (ConceptPair("circle"), ConceptPair("cat", "dog"), ConceptPair("Van Gogh"))
    assert request.retain == ("square", "red")
    assert request.says_target("  CIRCLE") and not request.says_target("dog")


def test_words_of_any_script_and_an_anchor_that_stays_are_taken() -> None:
    request = parse_request("\u732b => \U0001f436\n7\n\u0643\u0644\u0628", "\U0001f436\n\u0433\u043e\u0440\u0430")
    assert request.targets == ("\u732b", "7", "\u0643\u0644\u0628")
    assert parse_request("cat => dog", "dog").retain == ("dog",)


@pytest.mark.parametrize(
    ("concepts", "retain", "message"),
    [
        ("", "", "no concept to erase"),
        (" \n # only a comment", "", "no concept to erase"),
        ("=> dog", "", "its anchor is 'dog'"),
        ("cat => Cat", "", "'cat' and its anchor 'Cat' say the same"),
        ("cat => dog => cow", "", "more than one '=>'"),
        ("cat\ncat => dog", "", "'cat' is named twice"),
        ("cat", "dog\nCAT ", "'CAT' is to be erased and to be retained"),
        (
            "circle => square\nsquare => circle",
            "",
            "'circle => square' makes .* into 'square', which 'square => circle' erases",
        ),
        ("cat => Dog\ndog", "", "'cat => Dog' makes a concept into 'Dog', which 'dog' erases"),
        ("\u200b", "", r"'\\u200b' has no letter, digit or emoji; write it in words"),
        ("\x01", "", "has no letter"),
        ("...", "", "has no letter"),
        ("cat => ?!", "", r"'\?!' has no letter"),
        ("cat", "dog\n---", "'---' has no letter"),
    ],
)
def test_a_request_that_cannot_be_meant_is_named(concepts: str, retain: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_request(concepts, retain)


@pytest.mark.parametrize(
    "arrow",
    [
        "->",
        "-->",
        "==>",
        "=>",
        "~>",
        "|>",
        "=&gt;",
        "-&gt;",
        "＝＞",
        "－>",
        "—>",
        "–>",
        "−>",
        "→",
        "⇒",
        "➔",
        "⟶",
        "⟹",
        "➜",
        "➡️",
        "↦",
        "⇨",
        "⮕",
        "￫",
    ],
)
def test_every_arrow_to_the_right_means_the_same(arrow: str) -> None:
    pair = ConceptPair("t-shirt", "long-sleeved shirt")
    for line in (f"t-shirt {arrow} long-sleeved shirt", f"t-shirt{arrow}long-sleeved shirt"):
        assert parse_request(line).pairs == (pair,)
    assert parse_request(f"t-shirt{arrow}").pairs == (ConceptPair("t-shirt"),)


@pytest.mark.parametrize(
    "word", ["x-ray", "Spider-Man - Far From Home", "<cat-toy>", "AC/DC", "a|b", "\U0001f3f9", "C++"]
)
def test_what_is_no_arrow_stays_a_word(word: str) -> None:
    assert parse_request(word).pairs == (ConceptPair(word),)
    assert parse_request("cat", word).retain == (word,)
    assert arrow_parts(word) == [word]


@pytest.mark.parametrize(
    ("concepts", "retain", "sign"),
    [
        ("dog <- cat", "", "<"),
        ("dog <= cat", "", "<"),
        ("dog <-> cat", "", "<"),
        ("dog \u2190 cat", "", "\u2190"),
        ("dog \u2194 cat", "", "\u2194"),
        ("cat > dog", "", ">"),
        ("cat >> dog", "", ">"),
        ("cat = dog", "", "="),
        ("cat == dog", "", "=="),
        ("cat = > dog", "", "="),
        ("cowboy hat<cowboy", "", "<"),
        ("cowboy hat &lt; cowboy", "", "&lt;"),
        ("cat", "dog -> cow", "->"),
        ("cat", "dog => cow", "=>"),
        ("cat", "bird\ndog \u2192 cow", "\u2192"),
        ("cat", "red circle < circle", "<"),
    ],
)
def test_a_near_miss_of_an_arrow_is_refused_and_named(concepts: str, retain: str, sign: str) -> None:
    with pytest.raises(ValueError, match="is to be one concept, and holds ") as refused:
        parse_request(concepts, retain)
    assert f"holds {sign!r}" in str(refused.value) and "target => what it becomes" in str(refused.value)


def test_a_target_inside_a_wider_concept_keeps_that_concept() -> None:
    request = parse_request("red circle < circle\nlong shirt \uff1c shirt\ncat", "ring")
    first = ConceptPair("red circle", "circle", inside=True)
    assert request.pairs[0] == first and str(first) == "red circle < circle"
    assert (first.neutral, ConceptPair("cat", "dog").neutral) == ("circle", "")
    assert request.retain == ("ring", "circle", "shirt") and request.wider == ("circle", "shirt")
    assert parse_request("red circle < circle").told_apart_by == {"red"}
    assert not parse_request("cat => dog").told_apart_by


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("glasses < scientist", "write for example 'scientist with glasses < scientist'"),
        ("red circle < circle => square", "no arrow: the target becomes the wider concept"),
        ("red circle < circle < shape", "one '<'"),
        ("red circle < ", "holds '<'|not understood"),
        ("circle < Circle", "say the same"),
        ("red circle < circle\ncircle", "'red circle < circle' makes a concept into 'circle', which 'circle' erases"),
    ],
)
def test_a_wider_concept_that_cannot_be_meant_is_named(line: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_request(line)
