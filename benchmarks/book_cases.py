"""The erasures on the picture book."""

from __future__ import annotations

from testbed.measure_book import CATEGORY, STYLE_WORDS, Case

OBJECTS = ("cat", "violin", "bicycle", "hamburger", "strawberry", "doughnut", "airplane", "turtle")
"""Of eight subgroups; cat (lion, tiger, leopard) and violin (guitar, banjo) have near neighbours."""
TEN = ("dog", "owl", "shark", "rose", "carrot", "house", "jeans", "trumpet", "hammer", "chair")
IN_A_ROW = ("cat", "violin", "bicycle")
CASES = (
    *(Case(name, (name,)) for name in OBJECTS),
    *(Case(word, (f"{word} style",), "style") for word in STYLE_WORDS),
    Case("fruit", (CATEGORY[0],), "category"),
    Case("ten in one run", TEN),
    Case("three in a row", IN_A_ROW, one_by_one=True),
)
