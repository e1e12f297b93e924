"""What the demo and the thumbnails show of a run, and what the demo's figures on the picture book count."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from playground.picture_book.weights import stored_things
from testbed import measure_book, screen, thumbnails

RED, BLUE = (255, 0, 0), (0, 0, 255)


def png(colour: tuple[int, int, int]) -> bytes:
    """A picture of the size that the small worlds draw."""
    stream = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(stream, "PNG")
    return stream.getvalue()


def rows(prompts: list[str], pictures: int) -> list[tuple[str, list[bytes]]]:
    """A row before and one after for each prompt."""
    return [
        (f"{when}: {prompt}", [png(colour)] * pictures)
        for prompt in prompts
        for when, colour in (("before", RED), ("after", BLUE))
    ]


STYLED = [f"a {name} in {style} style" for name in ("cat", "lion") for style in ("flat", "shaded", "glossy")]


def colours(picture: Image.Image, x: int) -> list[tuple[int, ...]]:
    """The colours that a column of pixels goes through, apart from paper and letters."""
    seen = [picture.convert("RGB").getpixel((x, y)) for y in range(picture.height)]
    strong = [RED if r > 200 > g + b else BLUE for r, g, b in seen if (r > 200) != (b > 200) and g < 60]
    return [colour for row, colour in enumerate(strong) if row == 0 or colour != strong[row - 1]]


@pytest.mark.parametrize(("prompts", "pictures", "across"), [(STYLED, 3, 9), (["a red circle", "a blue square"], 8, 8)])
def test_prompts_stand_side_by_side_as_far_as_they_fit(tmp_path: Path, prompts, pictures, across) -> None:
    screen.save_grid(rows(prompts, pictures), tmp_path / "grid.png")
    grid = Image.open(tmp_path / "grid.png")
    assert grid.width == across * (128 + screen.GAP) + screen.GAP <= screen.WIDEST
    assert grid.height == 4 * (128 + screen.CAPTION + screen.GAP) + screen.GAP
    for column in range(across):
        assert colours(grid, screen.GAP + 64 + column * (128 + screen.GAP)) == [RED, BLUE, RED, BLUE]


@pytest.mark.parametrize(("prompts", "pictures"), [(STYLED, 3), (["a red circle", "a blue square"], 8)])
def test_a_thumbnail_has_a_row_a_model(prompts, pictures) -> None:
    drawn = thumbnails.thumbnail(rows(prompts, pictures))
    assert drawn.size == (thumbnails.WIDTH, thumbnails.HEIGHT)
    for x in (100, 256, 400):
        assert colours(drawn, x) == [RED, BLUE]


def test_a_thumbnail_of_many_prompts_shows_a_picture_of_each_of_the_first() -> None:
    shown = thumbnails._first_rows(screen.opened(rows(STYLED, 3)))
    assert [(title, len(pictures)) for title, pictures in shown] == [("before", 3), ("after", 3)]


class Knowing:
    """A model of the picture book that draws what it is asked for, apart from the `lost` words, and its judges."""

    def __init__(self) -> None:
        self.model = self
        self.lost: tuple[str, ...] = ()
        self.names = {thing.name for thing in stored_things()}

    def draw(self, model: Knowing, prompts: list[str], _seed: int) -> torch.Tensor:
        self.drawn = ["chair" if set(text.split()) & set(model.lost) else text for text in prompts]
        return torch.zeros(len(prompts), 3, 8, 8)

    def draw_base(self, prompts: list[str], seed: int) -> torch.Tensor:
        return self.draw(self, prompts, seed)

    def ranked(self, _pictures: torch.Tensor, _k: int) -> dict[str, list[list[str]]]:
        things = [next(name for name in text.split() if name in self.names) for text in self.drawn]
        return {"thing": [[name] for name in things], "style": [["flat"]] * len(self.drawn)}


def test_the_figures_on_the_book_count_targets_look_alikes_and_the_others() -> None:
    book, edited = Knowing(), SimpleNamespace(lost=("cat", "lion", "dog", "violin"))
    before = measure_book.evaluate(book, book, ["cat"], n=48)["cat"]
    after = measure_book.evaluate(book, edited, ["cat"], n=48)["cat"]
    assert (before.esr1, before.psr1, before.look_alike) == (0, 100, 100)
    assert after.esr1 == 100 and 0 < after.look_alike < after.psr1


def test_what_is_no_thing_of_the_book_is_not_measured() -> None:
    with pytest.raises(ValueError, match="circle: no thing of the picture book"):
        measure_book.evaluate(Knowing(), None, ["cat", "circle"], n=2)
