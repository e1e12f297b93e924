"""What an evaluation leaves on the disk: grid, chart and report, and beside them everything as JSON."""

from __future__ import annotations

import io
import json
from pathlib import Path

from PIL import Image

from ..erasure_core.evaluation.report import Evaluation
from ..erasure_core.files import write_whole
from . import host
from .erased_unet import next_file, safe_prefix


def write(evaluation: Evaluation, grid: Image.Image, chart: Image.Image, prefix: str) -> Path:
    """Write `<prefix>_00001_.json` in the output folder, and with the same number grid.png, chart.png and .md; the path
    of the JSON. Raises ValueError for a prefix that leaves the folder and OSError, naming the file, if one cannot be
    written."""
    path = next_file(Path(host.output_folder()), safe_prefix(prefix), ".json")
    write_whole(path.with_name(f"{path.stem}grid.png"), _png(grid))
    write_whole(path.with_name(f"{path.stem}chart.png"), _png(chart))
    write_whole(path.with_suffix(".md"), evaluation.markdown().encode())
    write_whole(path, json.dumps(evaluation.as_json(), indent=1, ensure_ascii=False).encode())
    return path


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
