"""Several attacks on one erased model: which to run, what they found, and what the edit survives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..method import settings_of
from ..report import Report
from .attack import Attack, attacks, check_fits
from .attacked_model import AttackedModel, DoesNotFit
from .run import Finding, Plain, find, markdown, plain


def every_attack() -> list[str]:
    """A line for every attack at its defaults, and for each of its variants."""
    return [" ".join([name, more]).strip() for name, attack in attacks().items() for more in ("", *attack.variants)]


def parse_attacks(text: str, seed: int) -> list[Attack]:
    """The attacks that a field names, one a line, each with the settings that differ from its defaults: `p4d steps=50`.
    Empty lines and those that begin with # are left out.

    Raises ValueError, naming the line, for an unknown attack or setting, a value out of range, a line that stands twice, and
    for no attack at all.
    """
    line_of: dict[Attack, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.strip().startswith("#"):
            continue
        try:
            attack = _parsed(line.split(), seed)
            if attack in line_of:
                raise ValueError(f"{attack.name} stands in line {line_of[attack]} already, with the same settings")
        except ValueError as error:
            raise ValueError(f"attacks, line {number}: {error}") from error
        line_of[attack] = number
    if not line_of:
        raise ValueError(f"attacks is empty; write at least one, one a line: {', '.join(attacks())}")
    return list(line_of)


def _parsed(words: Sequence[str], seed: int) -> Attack:
    name, *pairs = words
    known = attacks()
    if name not in known:
        raise ValueError(f"unknown attack {name!r}; choose one of {', '.join(known)}")
    defaults = {setting.name: setting.default for setting in settings_of(known[name])}
    values = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or key not in defaults:
            raise ValueError(f"{pair!r} is not understood; write setting=value with a setting of {', '.join(defaults)}")
        try:
            values[key] = type(defaults[key])(value)
        except ValueError as error:
            raise ValueError(f"{key} is {value!r}, and should be a value such as {defaults[key]}") from error
    return known[name](seed=seed, **values)


@dataclass
class Survey:
    """The results of several attacks. It fills up while they run, so that a cancelled run keeps its first part.
    `left_out` names attacks that do not fit the model, and why."""

    planned: int
    plain: Plain | None = None
    findings: list[Finding] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)

    def done(self) -> int:
        """Attacks that are over."""
        return len(self.findings) + len(self.left_out)

    def verdicts(self) -> list[str]:
        """Which attacks the edit falls to and survives, in sentences."""
        fallen = [finding.attack.label() for finding in self.findings if finding.broken()]
        held = [finding.attack.label() for finding in self.findings if not finding.broken()]
        lines = [f"falls to: {', '.join(fallen) or 'none of these attacks'}", f"survives: {', '.join(held) or 'none'}"]
        lines += [f"{name} was left out: {reason}" for name, reason in self.left_out]
        if self.done() < self.planned:
            lines.append(f"**stopped early**: {self.done()} of {self.planned} attacks were run")
        return lines

    def markdown(self, judge_lines: Sequence[str]) -> str:
        """One page; there must be at least one finding."""
        return markdown(self.findings, [*self.verdicts(), *judge_lines])

    def as_json(self) -> dict[str, Any]:
        """Every figure of every attack."""
        return {
            "complete": self.done() == self.planned,
            "left_out": [{"attack": name, "reason": reason} for name, reason in self.left_out],
            "attacks": [finding.as_json() for finding in self.findings],
        }


def run_all(attacked: AttackedModel, chosen: Sequence[Attack], n: int, survey: Survey, report: Report) -> None:
    """Draw the plain prompts once, then run each attack with n attempts, and write into `survey`.

    An attack that does not fit the model, or whose training diverges, is left out and named; nothing is drawn for one that
    needs what the models lack. Raises DoesNotFit if no attack is left, whatever `report.check` raises when the user cancels,
    and every other error of an attack.
    """
    fit = []
    for attack in chosen:
        try:
            check_fits(attacked, attack)
            fit.append(attack)
        except DoesNotFit as error:
            survey.left_out.append((attack.label(), str(error)))
    if fit:
        survey.plain = before = plain(attacked, n, chosen[0].seed, report)
        for attack in fit:
            report.check(f"attack {survey.done() + 1} of {len(chosen)}: {attack.name}")
            try:
                survey.findings.append(find(attacked, attack, n, before, report))
            except (DoesNotFit, FloatingPointError) as error:
                survey.left_out.append((attack.label(), str(error)))
    if not survey.findings:
        raise DoesNotFit("no attack fits: " + "; ".join(f"{name}: {why}" for name, why in survey.left_out))
