"""Write the thumbnail of every workflow from what it drew, or, where it needs a checkpoint that we lack, from what it says.

    python -m testbed.thumbnails [NAME ...]

The Templates dialog shows them about 220 pixels wide: few rows, large letters.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from PIL import Image, ImageDraw

from devtools.hosting import comfyui
from devtools.hosting.errors import in_one_line
from devtools.make_workflows import MAKERS, NEEDS, REAL, TITLED, path_of, workflow
from devtools.serving import server
from devtools.workflows import real

from . import files
from .demo import run_workflow
from .screen import Row, opened, prompt_of

WIDTH, HEIGHT = 512, 384
GAP = 8
FONT, LABEL = 26, 36  # eleven pixels high where the dialog shows it
MOST_ROWS = 4
PROMPTS = 3
CROP, ENLARGED = (330, 240), 1.5  # of a chart only its beginning is shown, so that its letters can be read
INK, PAPER, ACCENT = "black", "white", "#3f789e"


def thumbnail(rows: list[tuple[str, list[bytes]]]) -> Image.Image:
    """One picture of WIDTH x HEIGHT: the labelled rows of the first prompt, one an output node, or, of many prompts, a picture
    of each of the first ones; without any the first chart."""
    everything = opened(rows)
    drawings = _first_rows([row for row in everything if len(row[1]) > 1])[:MOST_ROWS]
    if not drawings:
        title, (chart, *_) = everything[0]
        return _stacked([(title, [_beginning(chart)])])
    size = (HEIGHT - GAP) // len(drawings) - LABEL - GAP
    count = (WIDTH - GAP) // (size + GAP)
    return _stacked([
        (title, [picture.resize((size, size), Image.Resampling.BICUBIC) for picture in row[:count]]) for title, row in drawings
    ])  # fmt: skip


def card(title: str, drawing: real.Drawing) -> Image.Image:
    """A card that names the subject of a workflow for the user's own checkpoint, in large letters."""
    family, _, what = title.partition(" - ")
    sheet = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.rectangle((0, 0, WIDTH, 150), fill=ACCENT)
    pen.text((WIDTH // 2, 75), family, fill=PAPER, font_size=88, anchor="mm")
    lines = (what, f"{drawing.width} x {drawing.height}, {drawing.settings['steps']} steps", "your own checkpoint")
    for row, line in enumerate(lines):
        pen.text((WIDTH // 2, 205 + 65 * row), line, fill=INK, font_size=40, anchor="mm")
    return sheet


def _first_rows(drawings: list[Row]) -> list[Row]:
    """All pictures of the first prompt, a row a model; with PROMPTS or more the first picture of each of so many."""
    prompts = list(dict.fromkeys(map(prompt_of, drawings)))
    if len(prompts) < PROMPTS:
        return [row for row in drawings if prompt_of(row) in prompts[:1]]
    shown: dict[str, list[Image.Image]] = {}
    for title, (first, *_) in drawings:
        if prompt_of((title, ())) in prompts[:PROMPTS]:
            shown.setdefault(title.partition(": ")[0], []).append(first)
    return list(shown.items())


def _beginning(chart: Image.Image) -> Image.Image:
    """The upper left of a chart, enlarged; all of it if it is small."""
    part = chart.crop((0, 0, min(CROP[0], chart.width), min(CROP[1], chart.height)))
    scale = min(ENLARGED, (WIDTH - 2 * GAP) / part.width, (HEIGHT - LABEL - 2 * GAP) / part.height)
    return part.resize((round(part.width * scale), round(part.height * scale)), Image.Resampling.LANCZOS)


def _stacked(rows: list[Row]) -> Image.Image:
    """The rows below each other, each centred, the whole centred too."""
    sheet = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    pen = ImageDraw.Draw(sheet)
    heights = [LABEL + max(picture.height for picture in pictures) + GAP for _, pictures in rows]
    top = (HEIGHT - sum(heights)) // 2
    for (title, pictures), height in zip(rows, heights, strict=True):
        left = (WIDTH - sum(picture.width + GAP for picture in pictures) + GAP) // 2
        pen.text((WIDTH // 2, top + LABEL // 2), title, fill=INK, font_size=FONT, anchor="mm")
        for picture in pictures:
            sheet.paste(picture, (left, top + LABEL))
            left += picture.width + GAP
        top += height
    return sheet


@in_one_line
def main(argv: Sequence[str] | None = None) -> int:
    """Run and draw; 0, or 1 with the reason on standard error."""
    names = [make.__name__ for make in MAKERS]
    parser = argparse.ArgumentParser(prog="python -m testbed.thumbnails", description="Draw the thumbnails.")
    parser.add_argument("names", nargs="*", choices=[*names, []], metavar="NAME", help="only these; default: all")
    wanted = parser.parse_args(argv).names or names
    for make, title in TITLED.items():
        if make.__name__ in wanted and make.__name__ in REAL:
            card(title, getattr(real, make.__name__.upper())).save(path_of(make.__name__, ".jpg"), quality=88)
    drawn_here = [name for name in wanted if name not in REAL]
    needed = {NEEDS[name] for name in drawn_here if name in NEEDS}
    if drawn_here:
        # in the order of `names`, so that a file is saved before it is loaded
        _draw_from_runs([name for name in names if name in needed.union(drawn_here)], drawn_here)
    return 0


def _draw_from_runs(names: Sequence[str], wanted: Sequence[str]) -> None:
    """Run the workflows `names` in this order, and draw the thumbnails of those that are `wanted`."""
    models = files.all_models(comfyui.ensure())
    with server.temporary_server(models_directory=models) as running:
        for name in names:
            print(f"running {name}", flush=True)
            run = run_workflow(running, workflow(name))
            if name in wanted:
                thumbnail(run.rows).save(path_of(name, ".jpg"), quality=88)


if __name__ == "__main__":
    raise SystemExit(main())
