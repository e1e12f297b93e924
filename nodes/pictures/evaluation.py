"""The grid and the chart of an evaluation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from PIL import Image
from torch import Tensor

from ...erasure_core.evaluation.drift import per_cent
from ...erasure_core.evaluation.prompts import EMPTY, GROUPS, Prompt
from ...erasure_core.evaluation.report import Evaluation
from ...erasure_core.evaluation.scores import Pair, Verdict
from .charts import BASE, ERASED, Bar, Cell, as_picture, bars, captioned, grid, proportion_bar, thumbnail

SHOWN = 8
"""Pairs of a group that the grid shows."""
LARGEST = 256
DRIFT_SPAN = 30.0
"""Drift in per cent that fills a bar; the figure stands beside it."""


class Album:
    """The pictures of the grid: of each group, pairs spread over its prompts. The others are dropped, for they are many."""

    def __init__(self, planned: Sequence[tuple[Prompt, int]]) -> None:
        groups: dict[str, list[int]] = defaultdict(list)
        for place, (prompt, _) in enumerate(planned):
            groups[prompt.group].append(place)
        self._wanted = {
            members[round(i * (len(members) - 1) / max(1, min(SHOWN, len(members)) - 1))]
            for members in groups.values()
            for i in range(min(SHOWN, len(members)))
        }
        self._seen = 0
        self._cells: dict[str, list[Cell]] = defaultdict(list)

    def add(self, pairs: Sequence[Pair], before: Tensor, after: Tensor) -> None:
        """Keep what the grid shows of newly drawn pairs."""
        for pair, one, other in zip(pairs, before, after, strict=True):
            if self._seen in self._wanted:
                pictures = [thumbnail(as_picture(image), min(LARGEST, max(image.shape[:2]))) for image in (one, other)]
                notes = [_verdict_text(pair.base), _verdict_text(pair.erased) or f"drift {per_cent(pair.pixels):.1f} %"]
                self._cells[pair.prompt.group].append(Cell(pair.prompt.text, pictures, notes))
            self._seen += 1

    def latest(self) -> Image.Image | None:
        """The newest pair side by side, for the live preview."""
        cells = [cells[-1] for cells in self._cells.values()]
        if not cells:
            return None
        sheet = Image.new("RGB", (2 * LARGEST, LARGEST), "white")
        for place, picture in enumerate(cells[-1].pictures):
            sheet.paste(thumbnail(picture, LARGEST), (place * LARGEST, 0))
        return sheet

    def grid(self, evaluation: Evaluation) -> Image.Image:
        """All that was kept, a section a group, and below it how good the judge is whose verdicts stand there."""
        sections = [(f"{group} prompts" if group != EMPTY else group, self._cells[group]) for group in GROUPS]
        sheet = grid([section for section in sections if section[1]], ("base", "erased"))
        return captioned(sheet, [evaluation.judge_line()])


def _verdict_text(verdict: Verdict | None) -> str:
    return ", ".join(labels[0] for labels in verdict.values()) if verdict else ""


def chart(evaluation: Evaluation) -> Image.Image:
    """Every score of base and erased model with its interval, then the drift of every group; below, how good the judge is."""
    rows = [
        (
            f"{row.group}: {row.score}",
            [proportion_bar(row.base, "base", BASE), proportion_bar(row.erased, "erased", ERASED)],
        )
        for row in evaluation.proportions()
    ]
    for row in evaluation.drifts():
        drift = row.drift
        bounds = (drift.low / DRIFT_SPAN, drift.high / DRIFT_SPAN)
        bar = Bar(drift.value / DRIFT_SPAN, *bounds, f"{drift.value:.2f} %, n {drift.n}", ERASED)
        rows.append((f"drift of {row.space}, {row.group}", [bar]))
    sheet = bars(rows, f"{', '.join(evaluation.concepts)}: gray base, blue erased", left=270)
    return captioned(sheet, [evaluation.judge_line()])
