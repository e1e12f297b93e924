"""Pictures that a node draws itself: bars with intervals, and grids of pictures with words on them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ...erasure_core.evaluation.proportions import Proportion

BASE, ERASED, INK, FAINT = (150, 158, 170), (66, 110, 180), (20, 20, 20), (90, 90, 90)
TEXT, SMALL = 13, 12


def as_image(picture: Image.Image) -> Tensor:
    """A drawing as an IMAGE (1, height, width, 3) in [0, 1]."""
    flat = torch.frombuffer(bytearray(picture.convert("RGB").tobytes()), dtype=torch.uint8)
    return flat.reshape(1, picture.height, picture.width, 3).float() / 255


def as_picture(image: Tensor) -> Image.Image:
    """One image (height, width, 3) in [0, 1] as a drawing."""
    return Image.fromarray((image.clamp(0, 1) * 255).round().byte().cpu().numpy())


@dataclass(frozen=True)
class Bar:
    """One bar: its share of the whole width, the whiskers of its interval, what stands behind it, and its colour."""

    share: float
    low: float
    high: float
    text: str
    colour: tuple[int, int, int]


def bars(rows: Sequence[tuple[str, Sequence[Bar]]], title: str, width: int = 640, left: int = 250) -> Image.Image:
    """Labelled groups of horizontal bars."""
    thick, gap, head, right = 15, 9, 40, 130
    heights = [thick * len(group) + gap for _, group in rows]
    sheet = Image.new("RGB", (width, head + sum(heights) + gap), "white")
    pen = ImageDraw.Draw(sheet)
    pen.text((10, 12), title, fill=INK, font_size=TEXT + 2)
    top, span = head, width - left - right
    for (label, group), height in zip(rows, heights, strict=True):
        pen.text((left - 8, top + thick * len(group) / 2), label, fill=INK, font_size=TEXT, anchor="rm")
        for place, bar in enumerate(group):
            _bar(pen, bar, left, top + thick * place, span, thick)
        top += height
    return sheet


def _bar(pen: ImageDraw.ImageDraw, bar: Bar, left: int, top: int, span: int, thick: int) -> None:
    middle = top + thick / 2
    pen.rectangle((left, top + 2, left + span * min(1.0, bar.share), top + thick - 3), fill=bar.colour)
    end = left + span * min(1.0, bar.share)
    if math.isfinite(bar.low) and math.isfinite(bar.high):
        low, high = (left + span * min(1.0, max(0.0, value)) for value in (bar.low, bar.high))
        pen.line((low, middle, high, middle), fill=INK)
        for x in (low, high):
            pen.line((x, middle - 3, x, middle + 3), fill=INK)
        end = max(end, high)
    pen.text((end + 6, middle), bar.text, fill=FAINT, font_size=SMALL, anchor="lm")


def proportion_bar(proportion: Proportion, whose: str, colour: tuple[int, int, int]) -> Bar:
    """A proportion with its interval; `whose`, if anybody's, stands behind the figure."""
    low, high = proportion.interval()
    text = f"{proportion.per_cent:.1f} %{' ' if whose else ''}{whose}, n {proportion.n}"
    return Bar(proportion.hits / proportion.n, low / 100, high / 100, text, colour)


@dataclass(frozen=True)
class Cell:
    """One column of a grid: a prompt, its pictures one below the other, and what is written under each."""

    title: str
    pictures: Sequence[Image.Image]
    notes: Sequence[str]


def grid(sections: Sequence[tuple[str, Sequence[Cell]]], rows: Sequence[str], size: int = 128) -> Image.Image:
    """Sections of cells side by side, at most eight across; `rows` names the pictures of a cell."""
    across, left, gap, line = 8, 64, 6, 16
    heights = [24 + _cell_rows(len(cells), across) * _cell_height(len(rows), size, line) for _, cells in sections]
    widest = max((min(across, len(cells)) for _, cells in sections), default=1)
    sheet = Image.new("RGB", (left + max(3, widest) * (size + gap), sum(heights) + gap), "white")
    pen, top = ImageDraw.Draw(sheet), gap
    for (title, cells), height in zip(sections, heights, strict=True):
        pen.text((gap, top), title, fill=INK, font_size=TEXT + 1)
        for place, cell in enumerate(cells):
            x = left + place % across * (size + gap)
            y = top + 24 + place // across * _cell_height(len(rows), size, line)
            if place % across == 0:
                for row, name in enumerate(rows):
                    pen.text(
                        (left - 6, y + line + row * (size + line) + size / 2), name, INK, font_size=SMALL, anchor="rm"
                    )
            _cell(sheet, pen, cell, (x, y), size, line)
        top += height
    return sheet


def _cell_rows(count: int, across: int) -> int:
    return max(1, math.ceil(count / across))


def _cell_height(rows: int, size: int, line: int) -> int:
    return line + rows * (size + line) + 8


def _cell(sheet: Image.Image, pen: ImageDraw.ImageDraw, cell: Cell, at: tuple[int, int], size: int, line: int) -> None:
    x, y = at
    pen.text((x, y), fitted(pen, cell.title or "(empty prompt)", size), fill=INK, font_size=SMALL)
    for row, (picture, note) in enumerate(zip(cell.pictures, cell.notes, strict=True)):
        top = y + line + row * (size + line)
        sheet.paste(thumbnail(picture, size), (x, top))
        pen.text((x, top + size + 1), fitted(pen, note, size), fill=FAINT, font_size=SMALL)


def captioned(sheet: Image.Image, lines: Sequence[str]) -> Image.Image:
    """The picture with lines of text below it, each wrapped to its width."""
    pen, gap, line = ImageDraw.Draw(sheet), 10, 16
    rows = [row for text in lines for row in _wrapped(pen, text, sheet.width - 2 * gap)]
    whole = Image.new("RGB", (sheet.width, sheet.height + line * len(rows) + gap), "white")
    whole.paste(sheet, (0, 0))
    pen = ImageDraw.Draw(whole)
    for place, row in enumerate(rows):
        pen.text((gap, sheet.height + line * place), row, fill=FAINT, font_size=SMALL)
    return whole


def _wrapped(pen: ImageDraw.ImageDraw, text: str, width: int) -> list[str]:
    rows = [""]
    for word in text.split():
        longer = f"{rows[-1]} {word}".strip()
        if rows[-1] and pen.textlength(longer, font_size=SMALL) > width:
            rows.append(word)
        else:
            rows[-1] = longer
    return rows


def thumbnail(picture: Image.Image, size: int) -> Image.Image:
    """The picture inside a square; small ones are enlarged without smoothing, so that one sees what the model drew."""
    scale = size / max(picture.size)
    how = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    small = picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))), how)
    square = Image.new("RGB", (size, size), "white")
    square.paste(small, ((size - small.width) // 2, (size - small.height) // 2))
    return square


def fitted(pen: ImageDraw.ImageDraw, text: str, width: int) -> str:
    """The text on one line, cut to a width in pixels."""
    text = " ".join(text.split())[:200]
    if pen.textlength(text, font_size=SMALL) <= width:
        return text
    while text and pen.textlength(f"{text}…", font_size=SMALL) > width:
        text = text[:-1]
    return f"{text}…"
