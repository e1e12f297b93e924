"""The files of an evaluation or an attack: pictures, a report, and all figures as JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from ...erasure_core.evaluation.prompts import Prompt
from ...erasure_core.evaluation.report import Evaluation
from ...erasure_core.evaluation.sampler import Sampling
from ...erasure_core.evaluation.scores import Pair
from ...erasure_core.files import write_new, write_whole
from .. import host
from ..pictures.charts import as_picture
from .file_names import numbered, safe_prefix

ROW_COLUMNS = ("row", "seed", "prompt", "concept", "group", "guidance", "width", "height", "file")


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


class PictureFolder:
    """A new folder `<prefix>_pictures_00001_` in the output folder, with every picture of an evaluation for other judges:
    `base` and `erased` hold `<row>_<seed>.png`, and `rows.csv` says what each row and seed is. No other run writes there.

    Raises ValueError for a prefix that leaves the output folder and OSError, naming the file, if one cannot be written.
    """

    def __init__(self, prefix: str, planned: Sequence[tuple[Prompt, int]], sampling: Sampling) -> None:
        name = safe_prefix(prefix)
        self.path = _new_folder(Path(host.output_folder()) / name.parent, f"{name.name}_pictures")
        self._rows = {prompt: row for row, prompt in enumerate(dict.fromkeys(prompt for prompt, _ in planned), 1)}
        write_whole(self.path / "rows.csv", self._table(planned, sampling).encode())

    def _table(self, planned: Sequence[tuple[Prompt, int]], sampling: Sampling) -> str:
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(ROW_COLUMNS)
        for prompt, seed in sorted(planned, key=lambda one: self._rows[one[0]]):
            row, file = self._rows[prompt], self._name(prompt, seed)
            scale = sampling.cfg if prompt.guidance_scale is None else prompt.guidance_scale
            size = prompt.size or (sampling.width, sampling.height)
            writer.writerow((row, seed, prompt.text, prompt.concept, prompt.group, scale, *size, file))
        return table.getvalue()

    def add(self, pairs: Sequence[Pair], before: Tensor, after: Tensor) -> None:
        """Write newly drawn pictures (n, height, width, 3) of both models."""
        for pair, one, other in zip(pairs, before, after, strict=True):
            for which, picture in (("base", one), ("erased", other)):
                write_whole(self.path / which / self._name(pair.prompt, pair.seed), _png(as_picture(picture)))

    def _name(self, prompt: Prompt, seed: int) -> str:
        return f"{self._rows[prompt]}_{seed}.png"


def _new_folder(parent: Path, name: str) -> Path:
    number = 1
    while True:
        path = parent / f"{name}_{number:05}_"
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            number += 1


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
