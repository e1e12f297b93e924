"""A list of attacks: how it is read, and that one which does not fit costs no other."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from concept_erasure.erasure_core.red_team.attack import Attack, Outcome, Shot, attacks
from concept_erasure.erasure_core.red_team.attack_suite import Survey, every_attack, parse_attacks, run_all
from concept_erasure.erasure_core.red_team.attacked_model import DoesNotFit
from concept_erasure.erasure_core.red_team.run import Finding, Plain
from concept_erasure.erasure_core.report import Report


def shot(hits: int, n: int = 12) -> Shot:
    """n black pictures of which the first show the concept."""
    seen = tuple(place < hits for place in range(n))
    return Shot(torch.zeros(n, 8, 8, 3), torch.tensor(seen).float(), seen)


def finding(attack: Attack, hits: int, control: int = 0) -> Finding:
    """An attack that came to this."""
    return Finding(attack, "circle", Plain(shot(12), shot(0)), Outcome(shot(hits), shot(control), "words"), 1.0, 5)


def test_a_list_is_read_with_settings() -> None:
    found = parse_attacks("\n# none\n p4d steps=50 learning_rate=0.5\nnoise\np4d\n", 9)
    known = attacks()
    assert found == [known["p4d"](seed=9, steps=50, learning_rate=0.5), known["noise"](seed=9), known["p4d"](seed=9)]


def test_every_attack_stands_once_in_the_whole_list_and_a_variant_says_what_differs() -> None:
    found = parse_attacks("\n".join(every_attack()), 9)
    assert {attack.name for attack in found} == set(attacks())
    assert [attack.label() for attack in found] == every_attack()
    assert "relearn pictures_of=other_concepts" in every_attack()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "attacks is empty"),
        ("# p4d", "attacks is empty"),
        ("noise\nmagic", "line 2: unknown attack 'magic'; choose one of completion"),
        ("p4d steps", "line 1: 'steps' is not understood.* words, steps"),
        ("p4d tries=2", "line 1: 'tries=2' is not understood"),
        ("p4d steps=many", "line 1: steps is 'many'"),
        ("p4d steps=0", "line 1: p4d: steps is 0, outside"),
        ("noise\n\nnoise", "line 3: noise stands in line 1 already"),
    ],
)
def test_a_list_that_is_not_understood_is_named_by_line(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_attacks(text, 0)


def test_what_falls_and_what_survives_is_said_first() -> None:
    known = attacks()
    survey = Survey(3, None, [finding(known["noise"](), 12), finding(known["inpaint"](), 12, control=12)])
    survey.left_out.append(("p4d", "two encoders"))
    said = survey.verdicts()
    assert said == ["falls to: noise", "survives: inpaint", "p4d was left out: two encoders"]
    assert all(line in survey.markdown(["shape right"]) for line in (*said, "shape right"))
    stored = survey.as_json()
    assert stored["complete"] and [one["survives"] for one in stored["attacks"]] == [False, True]
    assert "**stopped early**: 3 of 4" in Survey(4, None, survey.findings, survey.left_out).verdicts()[-1]


class Scripted(SimpleNamespace):
    """A subject whose pictures are black."""

    concept, templates, synonyms, steps, calls = "circle", ("a {}",), (), 1, 0

    def lacks(self, need):
        """See `AttackedModel`: nothing."""
        return None

    def draw(self, who, texts, seeds, noise_scale=1.0):
        """See `AttackedModel`."""
        self.drawn.append(who)
        return SimpleNamespace(pictures=torch.zeros(len(texts), 8, 8, 3))

    def confidence(self, pictures):
        """See `AttackedModel`."""
        return torch.zeros(len(pictures))

    def hits(self, pictures):
        """See `AttackedModel`."""
        return [False] * len(pictures)


def scripted(monkeypatch, fits: tuple[str, ...]) -> list[Attack]:
    """Three attacks of which only some fit."""

    def run(self, subject, n, report):
        if self.name not in fits:
            raise DoesNotFit("does not fit")
        return Outcome(shot(0, n), shot(0, n), "nothing")

    names = ("noise", "p4d", "inpaint")
    for name in names:
        monkeypatch.setattr(attacks()[name], "run", run)
    return [attacks()[name]() for name in names]


def test_an_attack_that_does_not_fit_is_left_out_and_the_plain_prompts_are_drawn_once(monkeypatch) -> None:
    survey, subject = Survey(3), Scripted(drawn=[])
    run_all(subject, scripted(monkeypatch, ("noise", "inpaint")), 4, survey, Report())
    assert [one.attack.name for one in survey.findings] == ["noise", "inpaint"]
    assert survey.left_out == [("p4d", "does not fit")] and subject.drawn == ["base", "erased"]
    assert all(one.plain is survey.plain for one in survey.findings)


@pytest.mark.parametrize("bug", [ValueError("a bug"), TypeError("a bug")], ids=["ValueError", "TypeError"])
def test_a_bug_of_an_attack_is_no_attack_that_does_not_fit(monkeypatch, bug: Exception) -> None:
    def run(self, subject, n, report):
        raise bug

    survey = Survey(3)
    chosen = scripted(monkeypatch, ("noise", "inpaint"))
    monkeypatch.setattr(attacks()["p4d"], "run", run)
    with pytest.raises(type(bug), match="a bug"):
        run_all(Scripted(drawn=[]), chosen, 4, survey, Report())
    assert [one.attack.name for one in survey.findings] == ["noise"] and not survey.left_out


def test_a_list_of_which_nothing_fits_is_an_error_and_a_cancel_keeps_the_first_part(monkeypatch) -> None:
    with pytest.raises(ValueError, match="no attack fits: noise: does not fit; p4d"):
        run_all(Scripted(drawn=[]), scripted(monkeypatch, ()), 4, Survey(3), Report())

    def cancel(doing: str = "") -> None:
        if doing.startswith("attack 2"):
            raise KeyboardInterrupt

    survey = Survey(3)
    with pytest.raises(KeyboardInterrupt):
        run_all(Scripted(drawn=[]), scripted(monkeypatch, ("noise", "p4d")), 4, survey, Report(check=cancel))
    assert survey.done() == 1 and "stopped early" in survey.verdicts()[-1]
