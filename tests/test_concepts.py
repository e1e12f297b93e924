"""What the two text fields say, and what is refused."""

from __future__ import annotations

import pytest
from concept_erasure.erasure_core.concepts import ConceptPair, parse_request


def test_fields_are_read_line_by_line() -> None:
    request = parse_request(" circle \n# a comment\n\ncat => dog\nVan Gogh=>", "square\n\nred\nsquare")
    assert request.pairs == (ConceptPair("circle"), ConceptPair("cat", "dog"), ConceptPair("Van Gogh"))
    assert request.retain == ("square", "red")
    assert request.says_target("  CIRCLE") and not request.says_target("dog")


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
    ],
)
def test_a_request_that_cannot_be_meant_is_named(concepts: str, retain: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_request(concepts, retain)
