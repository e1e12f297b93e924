"""What the demo shows: a progress bar, a grid of pictures, a table."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

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


def save_grid(rows: list[tuple[str, list[bytes]]], path: Path, scale: int = 2) -> None:
    """Write one PNG of all pictures, one titled row an output node; a single picture is kept byte for byte."""
    from PIL import Image, ImageDraw

    path.parent.mkdir(parents=True, exist_ok=True)
    if sum(len(pictures) for _, pictures in rows) == 1:
        path.write_bytes(next(pictures[0] for _, pictures in rows if pictures))
        return
    drawn = [(title, [Image.open(io.BytesIO(data)).convert("RGB") for data in pictures]) for title, pictures in rows]
    # Only small pictures are enlarged, and without smoothing, so that one sees what the model drew.
    grown = [
        (
            title,
            [p.resize((p.width * scale, p.height * scale), Image.NEAREST) if p.width <= 128 else p for p in pictures],
        )
        for title, pictures in drawn
    ]
    gap, caption = 8, 20
    width = max(sum(p.width + gap for p in pictures) for _, pictures in grown) + gap
    heights = [max(p.height for p in pictures) + caption + gap for _, pictures in grown]
    sheet = Image.new("RGB", (width, sum(heights) + gap), "white")
    draw, top = ImageDraw.Draw(sheet), gap
    for (title, pictures), height in zip(grown, heights, strict=True):
        draw.text((gap, top), title, fill="black")
        left = gap
        for picture in pictures:
            sheet.paste(picture, (left, top + caption))
            left += picture.width + gap
        top += height
    sheet.save(path)


def print_table(figures: dict[str, str]) -> None:
    """Two aligned columns between rules."""
    wide, value_wide = max(map(len, figures)), max(map(len, figures.values()))
    rule = f"  +-{'-' * wide}-+-{'-' * value_wide}-+"
    print(rule)
    for name, value in figures.items():
        print(f"  | {name:<{wide}} | {value:>{value_wide}} |")
    print(rule)
