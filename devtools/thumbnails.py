"""Run every workflow and write its thumbnail, `workflows/<name>.jpg`, from what it drew.

python -m devtools.thumbnails [NAME ...]
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw

from . import comfyui, playground_files, server
from .demo import run_workflow
from .errors import ToolError
from .make_workflows import FOLDER, MAKERS, NEEDS

WIDTH, HEIGHT = 512, 384
GAP, LABEL = 8, 20
FONT = 13
BESIDE_A_CHART = 2  # rows of pictures, the last ones, that a chart leaves room for
MOST_ROWS = 6  # without a chart: the first ones
LARGEST = (WIDTH - GAP) // 4 - GAP  # a row shows at least four pictures

Row = tuple[str, list[Image.Image]]


def thumbnail(rows: list[tuple[str, list[bytes]]]) -> Image.Image:
    """One picture of WIDTH x HEIGHT: charts first, then labelled rows of pictures, one an output node; charts alone stand
    side by side."""
    opened = [(title, [Image.open(io.BytesIO(data)).convert("RGB") for data in pictures]) for title, pictures in rows]
    if all(len(pictures) == 1 for _, pictures in opened):
        most = ((WIDTH - GAP) // len(opened) - GAP, HEIGHT - LABEL - 2 * GAP)
        fitted = [_fitted(pictures[0], most) for _, pictures in opened]
        return _stacked([(", ".join(title for title, _ in opened), fitted)])
    most = (WIDTH - 2 * GAP, HEIGHT // 2 - LABEL)  # the whole width, but never over more than half the height
    charts = [(title, [_fitted(pictures[0], most)]) for title, pictures in opened if len(pictures) == 1]
    drawings = [row for row in opened if len(row[1]) > 1]
    drawings = drawings[-BESIDE_A_CHART:] if charts else drawings[:MOST_ROWS]
    free = HEIGHT - GAP - sum(LABEL + pictures[0].height + GAP for _, pictures in charts)
    size = min(LARGEST, free // max(1, len(drawings)) - LABEL - GAP)
    if size < 32:
        raise ValueError(f"{len(drawings)} rows of pictures and {len(charts)} charts are too much for one thumbnail")
    count = (WIDTH - GAP) // (size + GAP)
    resized = [
        (title, [picture.resize((size, size), Image.BICUBIC) for picture in row[:count]]) for title, row in drawings
    ]
    return _stacked([*charts, *resized])


def _fitted(chart: Image.Image, most: tuple[int, int]) -> Image.Image:
    """A chart as large as it may be: at most so wide and so high."""
    scale = min(most[0] / chart.width, most[1] / chart.height)
    return chart.resize((round(chart.width * scale), round(chart.height * scale)), Image.LANCZOS)


def _stacked(rows: list[Row]) -> Image.Image:
    """The rows below each other, each centred, the whole centred too."""
    sheet = Image.new("RGB", (WIDTH, HEIGHT), "white")
    pen = ImageDraw.Draw(sheet)
    heights = [LABEL + max(picture.height for picture in pictures) + GAP for _, pictures in rows]
    top = (HEIGHT - sum(heights)) // 2
    for (title, pictures), height in zip(rows, heights, strict=True):
        left = (WIDTH - sum(picture.width + GAP for picture in pictures) + GAP) // 2
        pen.text((left, top + 2), title, fill="black", font_size=FONT)
        for picture in pictures:
            sheet.paste(picture, (left, top + LABEL))
            left += picture.width + GAP
        top += height
    return sheet


def main(argv: list[str] | None = None) -> int:
    """Run and draw; 0, or 1 with the reason on standard error."""
    names = [make.__name__ for make in MAKERS]
    parser = argparse.ArgumentParser(prog="python -m devtools.thumbnails", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[*names, []], metavar="NAME", help="only these; default: all")
    wanted = parser.parse_args(argv).names or names
    try:
        host = comfyui.ensure()
        models = playground_files.playground_models(host)
        with (
            tempfile.TemporaryDirectory(prefix="concept-erasure-") as base,
            server.running_server(host, Path(base), models_directory=models) as running,
        ):
            needed = {NEEDS[name] for name in wanted if name in NEEDS}
            for name in names:  # in this order a file is saved before it is loaded
                if name not in wanted and name not in needed:
                    continue
                print(f"running {name}", flush=True)
                run = run_workflow(running, json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8")))
                if name in wanted:
                    thumbnail(run.rows).save(FOLDER / f"{name}.jpg", quality=88)
    except (ToolError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
