"""What an evaluation or an attack leaves on the disk: pictures and a report, and beside them everything as JSON."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from ..erasure_core.evaluation.report import Evaluation
from ..erasure_core.files import write_new, write_whole
from . import host
from .file_names import numbered, safe_prefix


def write_evaluation(evaluation: Evaluation, grid: Image.Image, chart: Image.Image, prefix: str) -> Path:
    """`write` for an evaluation with its grid and chart."""
    return write(prefix, evaluation.markdown(), evaluation.as_json(), {"grid": grid, "chart": chart})


def write(prefix: str, report: str, figures: Mapping[str, Any], pictures: Mapping[str, Image.Image]) -> Path:
    """Write `<prefix>_00001_.json` in the output folder, and with the same number .md and each picture's `<name>.png`;
    the path of the JSON. Raises ValueError for a prefix that leaves the folder and OSError, naming the file, if one cannot
    be written."""
    paths = numbered(Path(host.output_folder()), safe_prefix(prefix), ".json")
    # the report first: it claims the number. The figures last: where they are, all the rest is
    path = write_new((path.with_suffix(".md") for path in paths), report.encode()).with_suffix(".json")
    for name, picture in pictures.items():
        write_whole(path.with_name(f"{path.stem}{name}.png"), _png(picture))
    write_whole(path, json.dumps(figures, indent=1, ensure_ascii=False).encode())
    return path


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
