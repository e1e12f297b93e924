"""One page that shows what an edit survives and what not."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from ...erasure_core.red_team.attack import Shot
from ...erasure_core.red_team.attack_suite import Survey
from .charts import BASE, ERASED, Cell, as_picture, bars, captioned, grid, proportion_bar

FALLEN = (196, 78, 66)
SHOWN = 8


def shown(shot: Shot) -> list[Cell]:
    """A shot's first pictures with the judge's verdicts."""
    judged = zip(shot.pictures[:SHOWN], shot.confidence, shot.hits, strict=False)
    return [
        Cell("seen" if hit else "not seen", [as_picture(picture)], [f"{100 * float(sure):.0f} % sure"])
        for picture, sure, hit in judged
    ]


def page(survey: Survey, judge_lines: Sequence[str]) -> Image.Image:
    """The success rates of every attack and its control, the plain pictures of both models, each attack's strongest
    picture, and how good the judge is. There must be at least one finding."""
    first = survey.findings[0]
    strongest = []
    for finding in survey.findings:
        picture, sure = finding.outcome.attack.strongest()
        strongest.append(Cell(finding.attack.label(), [as_picture(picture)], [f"{100 * sure:.0f} % sure"]))
    sections = [
        ("base model, plain prompts", shown(first.plain.base)),
        ("erased model, plain prompts", shown(first.plain.erased)),
        ("each attack's strongest picture", strongest),
    ]
    return captioned(_stacked(_chart(survey), grid(sections, ("",))), judge_lines)


def _chart(survey: Survey) -> Image.Image:
    rates = survey.findings[0].proportions()
    rows = [(name, [proportion_bar(rates[name], "", BASE)]) for name in ("base", "no attack")]
    for finding in survey.findings:
        rates, colour = finding.proportions(), FALLEN if finding.broken() else ERASED
        rows.append(
            (
                finding.attack.label(),
                [proportion_bar(rates["attack"], "", colour), proportion_bar(rates["control"], "control", BASE)],
            )
        )
    left = max(150, 16 + 8 * max(len(label) for label, _ in rows))
    title = f"{survey.findings[0].concept} brought back: red falls, blue survives, gray control"
    return bars(rows, title, width=490 + left, left=left)


def _stacked(*sheets: Image.Image) -> Image.Image:
    whole = Image.new("RGB", (max(sheet.width for sheet in sheets), sum(sheet.height for sheet in sheets)), "white")
    top = 0
    for sheet in sheets:
        whole.paste(sheet, (0, top))
        top += sheet.height
    return whole
