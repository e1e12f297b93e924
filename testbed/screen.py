"""The demo's output: a progress bar, a grid of pictures, a table."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image, ImageDraw

Row = tuple[str, list[Image.Image]]
"""A title and its pictures."""
BAR = 30


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
    """Write one PNG of all pictures, one titled row an output node; a single picture is written byte for byte."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if sum(len(pictures) for _, pictures in rows) == 1:
        path.write_bytes(next(pictures[0] for _, pictures in rows if pictures))
        return
    _grid([(title, [_enlarged(picture, scale) for picture in pictures]) for title, pictures in opened(rows)]).save(path)


def _enlarged(picture: Image.Image, scale: int) -> Image.Image:
    """A small picture grown without smoothing, so that one sees what the model drew; a large one as it is."""
    if picture.width > 128:
        return picture
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)


def _grid(rows: list[Row]) -> Image.Image:
    gap, caption = 8, 20
    width = max(sum(picture.width + gap for picture in pictures) for _, pictures in rows) + gap
    heights = [max(picture.height for picture in pictures) + caption + gap for _, pictures in rows]
    sheet = Image.new("RGB", (width, sum(heights) + gap), "white")
    draw, top = ImageDraw.Draw(sheet), gap

    for (title, pictures), height in zip(rows, heights, strict=True):
        draw.text((gap, top), title, fill="black")
        left = gap
        for picture in pictures:
            sheet.paste(picture, (left, top + caption))
            left += picture.width + gap
        top += height
    return sheet


def print_table(figures: dict[str, str]) -> None:
    """Two aligned columns between rules."""
    wide, value_wide = max(map(len, figures)), max(map(len, figures.values()))
    rule = f"  +-{'-' * wide}-+-{'-' * value_wide}-+"
    print(rule)
    for name, value in figures.items():
        print(f"  | {name:<{wide}} | {value:>{value_wide}} |")
    print(rule)
