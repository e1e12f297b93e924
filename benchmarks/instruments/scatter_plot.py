"""A scatter plot, drawn with Pillow: the host has no plotting library, and a benchmark should ask for none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

SIDE, EDGE, DOT = 760, 70, 5
FONT, LINE = 14, 16
GRID = 20
INK, FAINT, LEADER, MARKED = "#202020", "#dddddd", "#9a9a9a", "#b03a2e"


@dataclass(frozen=True)
class Point:
    """One named point; coordinates are per cent. `marked` ones are drawn in another colour."""

    name: str
    x: float
    y: float
    marked: bool = False


def scatter(points: Sequence[Point], title: str, across: str, up: str) -> Image.Image:
    """The points in a square from 0 to 100 per cent both ways, each with its name; names that would cover another or
    a point are moved down."""
    sheet = Image.new("RGB", (SIDE + 2 * EDGE, SIDE + 2 * EDGE), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT)

    def place(x: float, y: float) -> tuple[float, float]:
        return EDGE + x * SIDE / 100, EDGE + (100 - y) * SIDE / 100

    for value in range(0, 101, GRID):
        pen.line([place(value, 0), place(value, 100)], fill=FAINT)
        pen.line([place(0, value), place(100, value)], fill=FAINT)
        pen.text(place(value, -2), str(value), fill=INK, font=font, anchor="ma")
        pen.text(place(-2, value), str(value), fill=INK, font=font, anchor="rm")
    pen.text((EDGE, LINE), f"{title}. Upwards: {up}", fill=INK, font=font)
    pen.text(place(50, -6), across, fill=INK, font=font, anchor="ma")
    dots = [place(point.x, point.y) for point in points]
    taken = [(x - DOT, y - DOT, x + DOT, y + DOT) for x, y in dots]
    for point in sorted(points, key=lambda point: (-point.y, -point.x)):
        x, y = place(point.x, point.y)
        colour = MARKED if point.marked else INK
        pen.ellipse([x - DOT, y - DOT, x + DOT, y + DOT], fill=colour)
        # names stand left of their points in the right half, so that none leaves the sheet
        width = pen.textlength(point.name, font=font)
        left = x - width - 2 * DOT if point.x > 50 else x + 2 * DOT
        top = y - LINE / 2
        while any(
            left - DOT < right and left + width + DOT > lower and top < bottom and top + LINE > upper
            for lower, upper, right, bottom in taken
        ):
            top += LINE
        taken.append((left, top, left + width, top + LINE))
        pen.text((left, top), point.name, fill=colour, font=font)
        if top > y:
            pen.line([(x, y), (left + (width if point.x > 50 else 0), top + LINE / 2)], fill=LEADER)
    return sheet
