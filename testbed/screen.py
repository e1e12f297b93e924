"""The demo's output: a progress bar, a grid of pictures, a table."""

from __future__ import annotations

import io
import itertools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image, ImageDraw

Row = tuple[str, list[Image.Image]]
"""A title and its pictures."""
BAR = 30
GAP, CAPTION = 8, 20
WIDEST = 1300
"""The width that a grid may have, in pixels, before prompts stand below each other; one row may be wider."""


def progress_bar(titles: dict[str, str]) -> Callable[[str, float, float], None]:
    """A callback for `wait` that redraws one line a node; without a terminal it prints one line every quarter."""
    shown: dict[str, int] = {}

    def show(node: str, value: float, maximum: float) -> None:
        share = value / maximum if maximum else 1.0
        title = titles.get(node, node)[:32]
        if sys.stdout.isatty():
            filled = int(share * BAR)
            bar = "#" * filled + "." * (BAR - filled)
            print(f"\r  {title:<32} [{bar}] {value:g}/{maximum:g}  ", end="\n" if share >= 1 else "", flush=True)
        elif int(share * 4) > shown.get(node, 0):
            print(f"  {title:<32} {value:g}/{maximum:g}", flush=True)
        shown[node] = 0 if share >= 1 else int(share * 4)  # a node may run several times

    return show


def opened(rows: Sequence[tuple[str, list[bytes]]]) -> list[Row]:
    """Titled rows of encoded pictures, decoded."""
    return [(title, [Image.open(io.BytesIO(data)).convert("RGB") for data in pictures]) for title, pictures in rows]


def save_grid(rows: list[tuple[str, list[bytes]]], path: Path, scale: int = 2) -> None:
    """Write one PNG of all pictures: a titled row an output node, the rows of one prompt below each other, and prompts side
    by side as far as they fit. A single picture is written byte for byte."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if sum(len(pictures) for _, pictures in rows) == 1:
        path.write_bytes(next(pictures[0] for _, pictures in rows if pictures))
        return
    shown = [(title, [_enlarged(picture, scale) for picture in pictures]) for title, pictures in opened(rows)]
    _flowed([_grid(list(of_prompt)) for _, of_prompt in itertools.groupby(shown, prompt_of)]).save(path)


def prompt_of(row: tuple[str, object]) -> str:
    """The prompt of the pictures of a row: its title is `model: prompt`."""
    return row[0].rpartition(": ")[2]


def _enlarged(picture: Image.Image, scale: int) -> Image.Image:
    """A small picture grown without smoothing, so that one sees what the model drew; a large one as it is."""
    if picture.width > 128:
        return picture
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)


def _grid(rows: list[Row]) -> Image.Image:
    """The rows below each other, with a gap to the right and below."""
    width = max(sum(picture.width + GAP for picture in pictures) for _, pictures in rows)
    heights = [CAPTION + max(picture.height for picture in pictures) + GAP for _, pictures in rows]
    sheet = Image.new("RGB", (width, sum(heights)), "white")
    draw, top = ImageDraw.Draw(sheet), 0

    for (title, pictures), height in zip(rows, heights, strict=True):
        draw.text((0, top), title, fill="black")
        left = 0
        for picture in pictures:
            sheet.paste(picture, (left, top + CAPTION))
            left += picture.width + GAP
        top += height
    return sheet


def _flowed(blocks: list[Image.Image]) -> Image.Image:
    """The blocks from left to right, a new line where the next one would be beyond WIDEST, with a gap all around."""
    places: list[tuple[int, int]] = []
    left = top = GAP
    bottom = GAP
    for block in blocks:
        if left > GAP and left + block.width > WIDEST:
            left, top = GAP, bottom
        places.append((left, top))
        left, bottom = left + block.width, max(bottom, top + block.height)
    width = max(left + block.width for (left, _), block in zip(places, blocks, strict=True))
    sheet = Image.new("RGB", (width, bottom), "white")
    for place, block in zip(places, blocks, strict=True):
        sheet.paste(block, place)
    return sheet


def print_table(figures: dict[str, str]) -> None:
    """Two aligned columns between rules."""
    wide, value_wide = max(map(len, figures)), max(map(len, figures.values()))
    rule = f"  +-{'-' * wide}-+-{'-' * value_wide}-+"
    print(rule)
    for name, value in figures.items():
        print(f"  | {name:<{wide}} | {value:>{value_wide}} |")
    print(rule)
