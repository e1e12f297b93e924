"""What the two text fields say, and what is refused."""

from __future__ import annotations

import pytest
from concept_erasure.erasure_core.concepts import ConceptPair, parse_request


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
