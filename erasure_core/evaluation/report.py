"""An evaluation as a report for people and as JSON for machines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .detections import CURVE, class_rows, curve_rows, figures
from .judges.judge import ConceptJudge
from .sampler import Sampling
from .scores import CRA, IRA, UA, DriftRow, Pair, ProportionRow, canvas_rows, drift_rows, proportion_rows

READING = (
    "ESR-k: the concept is not among the judge's k likeliest labels (higher is better). PSR-k: what should stay is among "
    "them (higher is better, and no edit is expected above the base model). Drift: root mean square difference to the base "
    "model's picture from the same noise (lower is better; 0 is the same picture). UA, IRA, CRA as UnlearnCanvas counts them: "
    "target pictures not judged as the target; of the others, the target's own factor judged right, and any other factor. In "
    "brackets a 95 % interval."
)


@dataclass(frozen=True)
class Evaluation:
    """The measurements of an erased model beside its base. `planned` pairs were asked for; fewer were drawn if the
    user cancelled."""

    concepts: tuple[str, ...]
    judge: ConceptJudge | None
    sampling: Sampling
    seed: int
    pairs: tuple[Pair, ...]
    planned: int
    seconds: float
    notes: tuple[str, ...] = ()

    def proportions(self) -> list[ProportionRow]:
        """The scores by the judge; none without one."""
        ranks = {factor.name: len(factor.labels) for factor in self.judge.factors} if self.judge else {}
        return proportion_rows(self.pairs, ranks)

    def canvas(self) -> list[ProportionRow]:
        """UA, IRA and CRA as UnlearnCanvas counts them; none without a judge."""
        if self.judge is None:
            return []
        factors = (self.judge.factor_of(concept) for concept in self.concepts)
        return canvas_rows(self.pairs, [factor.name for factor in factors if factor])

    def drifts(self) -> list[DriftRow]:
        """The drift of every group."""
        return drift_rows(self.pairs)

    def markdown(self) -> str:
        """The report."""
        sampling = self.sampling
        head = [
            f"# Evaluation: {', '.join(self.concepts)} erased",
            "",
            f"- {len(self.pairs)} pictures by each model, {self.seconds:.1f} s; {sampling.width}x{sampling.height}, "
            f"{sampling.steps} steps, cfg {sampling.cfg:g}, {sampling.sampler_name}, {sampling.scheduler}, "
            f"seed {self.seed}; base and erased model start from the same noise",
            f"- {self.judge_line()}",
        ]
        if len(self.pairs) < self.planned:
            head.append(f"- **stopped early**: {len(self.pairs)} of {self.planned} pairs were drawn")
        head += [f"- {note}" for note in self.notes]
        tables = [*self._proportion_table(), *self._canvas_table(), *self._found_tables(), *self._drift_table()]
        return "\n".join([*head, "", *tables, READING, ""])

    def judge_line(self) -> str:
        """The judge and its stated accuracy."""
        if self.judge is None:
            return "no judge: only drift is measured; whether the concept is gone was not"
        return f"judge {self.judge.name!r}: " + "; ".join(accuracy_lines(self.judge))

    def _proportion_table(self) -> list[str]:
        rows = [[row.group, row.score, row.base.text(), row.erased.text()] for row in self.proportions()]
        return table(["prompts", "score", "base", "erased"], rows)

    def _canvas_table(self) -> list[str]:
        rows = {row.score: row for row in self.canvas()}
        if not rows:
            return []
        lines = [
            [which, *(getattr(rows[name], which).text() if name in rows else "-" for name in (UA, IRA, CRA))]
            for which in ("base", "erased")
        ]
        return table(["model", UA, IRA, CRA], lines)

    def _found_tables(self) -> list[str]:
        if self.judge is None or self.judge.detector is None:
            return []
        counts = [
            [row.group, row.kind, *(f"{row.detections[i]} in {row.pictures[i]} of {row.n}" for i in (0, 1))]
            for row in class_rows(self.pairs, self.judge.detector)
        ]
        curve = [
            [group, who, *(f"{share.per_cent:.1f} %" for share in shares)]
            for group, who, shares in curve_rows(self.pairs, self.judge.detector)
        ]
        return [
            *table(["prompts", "class", "base: detections in pictures", "erased: detections in pictures"], counts),
            *table(["prompts", "pictures with a detection at", *(f"{least:g}" for least in CURVE)], curve),
        ]

    def _drift_table(self) -> list[str]:
        return table(
            ["prompts", "drift of", "base to erased"],
            [[row.group, row.space, row.drift.text()] for row in self.drifts()],
        )

    def scores(self) -> dict[str, Any]:
        """The figures that an erased UNet's metadata keeps: no picture, no path."""
        detector = self.judge.detector if self.judge else None
        return {
            **judge_figures(self.judge),
            **({"detections": figures(self.pairs, detector)} if detector else {}),
            "sampling": asdict(self.sampling),
            "seed": self.seed,
            "complete": len(self.pairs) == self.planned,
            "shares": [{"group": row.group, "score": row.score} | _both(row) for row in self.proportions()],
            "unlearn_canvas": {row.score: _both(row) for row in self.canvas()},
            "drift": [
                {"group": row.group, "space": row.space} | {k: _finite(v) for k, v in asdict(row.drift).items()}
                for row in self.drifts()
            ],
        }

    def _picture(self, pair: Pair) -> dict[str, Any]:
        known = asdict(pair)
        if self.judge is None or self.judge.detector is None:
            del known["base_found"], known["erased_found"]
        return known

    def as_json(self) -> dict[str, Any]:
        """Everything: the scores, and each picture with its prompt, seed, verdicts and drift."""
        return {
            "concepts": list(self.concepts),
            "seconds": round(self.seconds, 1),
            "planned": self.planned,
            "notes": list(self.notes),
            **self.scores(),
            "pictures": [self._picture(pair) for pair in self.pairs],
        }


def accuracy_lines(judge: ConceptJudge) -> list[str]:
    """The stated accuracy of each factor's judge, and what a detector counts; no report shows a verdict without these."""
    lines = []
    for factor in judge.factors:
        known = factor.accuracy
        if known is None:
            quality = "its own accuracy is not stated, so the base model's row is the only yardstick"
        else:
            quality = f"right in {100 * known.right / known.n:.1f} % of {known.n} {known.on}"
        lines.append(f"{factor.name} ({len(factor.labels)} labels) {quality}")
    return [*lines, judge.detector.text()] if judge.detector else lines


def judge_figures(judge: ConceptJudge | None) -> dict[str, Any]:
    """The same for machines: the judge's name, and for each factor its accuracy (None if it is not stated)."""
    factors = judge.factors if judge else ()
    return {
        "judge": judge.name if judge else None,
        "judge_accuracy": [asdict(one.accuracy) if one.accuracy else None for one in factors],
    }


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table with an empty one behind it; nothing without rows."""
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    return [lines[0], "|" + "---|" * len(head), *lines[1:], ""] if rows else []


def _both(row: ProportionRow) -> dict[str, Any]:
    return {
        which: {"per_cent": share.per_cent, "interval": share.interval(), "n": share.n}
        for which, share in (("base", row.base), ("erased", row.erased))
    }


def _finite(value: float) -> float | None:
    return None if isinstance(value, float) and math.isnan(value) else value
