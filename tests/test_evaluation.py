"""The evaluation's arithmetic: groups, shares, drift, scores and the report, with painters of a few numbers."""

from __future__ import annotations

import json
import math

import pytest
import torch
from concept_erasure.erasure_core.evaluation import prompts as groups
from concept_erasure.erasure_core.evaluation.drift import drift_of, mean_square, per_cent
from concept_erasure.erasure_core.evaluation.judges.judge import Accuracy, ConceptJudge, Factor
from concept_erasure.erasure_core.evaluation.prompts import Prompt, parse_templates, prompt_groups
from concept_erasure.erasure_core.evaluation.proportions import Proportion, proportion_of
from concept_erasure.erasure_core.evaluation.run import DRAWN_AT_ONCE, Job, Watcher, concepts_of, evaluate, summary
from concept_erasure.erasure_core.evaluation.sampler import Samples, Sampling

SHAPES = ("circle", "oval", "square", "star", "cross", "ring")
COLOURS = ("red", "blue")
SAMPLING = Sampling(8, 8, 1, 1.0, "euler", "normal")


class Words:
    """A painter whose picture holds the numbers of the shape and colour that the prompt says, and the seed; `becomes`
    says what it draws in place of a shape."""

    def __init__(self, **becomes: str) -> None:
        self._becomes, self.asked, self.sizes = becomes, [], []

    def sized(self, width, height):
        """See `ImageSampler`."""
        self.sizes.append((width, height))
        return self

    def draw(self, prompts, seeds, guidance_scale=None) -> Samples:
        """See `ImageSampler`."""
        self.asked += [(prompt, seed, guidance_scale) for prompt, seed in zip(prompts, seeds, strict=True)]
        rows = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            said = [self._becomes.get(word, word) for word in prompt.replace("disc", "circle").split()]
            shape = next((SHAPES.index(word) for word in said if word in SHAPES), 0)
            colour = next((COLOURS.index(word) for word in said if word in COLOURS), 0)
            rows.append([shape / 10, colour / 10, (seed % 7) / 10])
        picture = torch.tensor(rows).reshape(-1, 1, 1, 3).expand(-1, 2, 2, 3)
        return Samples(picture.clone(), picture.clone())


def reads(labels: tuple[str, ...], channel: int):
    """What tells a label by its number in a channel."""

    def score(pictures):
        numbers = torch.arange(len(labels)) / 10
        return -(pictures[:, 0, 0, channel, None] - numbers).abs()

    return score


JUDGE = ConceptJudge(
    "toy",
    (
        Factor("shape", SHAPES, reads(SHAPES, 0), Accuracy(199, 200, "toy pictures")),
        Factor("colour", COLOURS, reads(COLOURS, 1)),
    ),
)


def job(erased: Words, judge: ConceptJudge | None = JUDGE, **fields: str) -> Job:
    """An evaluation of `circle`."""
    asked = prompt_groups(["circle"], ["a red {}", "a blue {}"], **fields)
    return Job(Words(), erased, judge, ("circle",), tuple(asked), 3, 5, SAMPLING)


FULL = {
    "synonyms": "disc",
    "look_alikes": "oval",
    "retain_prompts": "a red square\na wooden house\nsomething round => ring",
}


def rows_of(evaluation) -> dict:
    """(group, score) -> (base per cent, erased per cent, n)."""
    return {
        (row.group, row.score): (row.base.per_cent, row.erased.per_cent, row.base.n) for row in evaluation.proportions()
    }


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(0, 10, 0.0, 27.75), (10, 10, 72.25, 100.0), (5, 10, 23.66, 76.34), (81, 263, 25.53, 36.62)],
)
def test_wilsons_interval_has_the_published_values(hits, n, low, high) -> None:
    assert Proportion(hits, n).interval() == pytest.approx((low, high), abs=0.02)


def test_a_share_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one picture"):
        proportion_of([])


def test_drift_is_zero_for_equal_pictures_and_in_per_cent_of_the_range_otherwise() -> None:
    one = torch.rand(3, 4, 4, 3, generator=torch.Generator().manual_seed(0))
    assert mean_square(one, one).tolist() == [0, 0, 0]
    assert drift_of([0.0, 0.0]).value == drift_of([0.0, 0.0]).high == 0
    assert per_cent(float(mean_square(torch.zeros(1, 5), torch.full((1, 5), 0.25)))) == 25.0
    drift = drift_of([0.01, 0.04, 0.01, 0.04])
    assert drift.value == pytest.approx(15.81, abs=0.01) and drift.low < drift.value < drift.high and drift.n == 4
    assert math.isnan(drift_of([0.01]).low)


def test_the_groups_come_from_templates_and_from_lines_typed_by_hand() -> None:
    asked = prompt_groups(["circle", "star"], ["a {}"], synonyms="disc => circle", look_alikes="oval\n# no\nstar",
                          target_prompts="a shining star above", retain_prompts="a round hat => ring")  # fmt: skip
    assert asked == [
        Prompt("a circle", "target", "circle"),
        Prompt("a star", "target", "star"),
        Prompt("a shining star above", "target", "star"),
        Prompt("a disc", "synonym", "circle"),
        Prompt("a oval", "look-alike", "oval"),
        Prompt("a round hat", "retain", "ring"),
        Prompt("", "empty prompt"),
    ]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"retain_prompts": "a house\na => b => c"}, "retain_prompts, line 2"),
        ({"retain_prompts": "ok\n\n=> star"}, "retain_prompts, line 3"),
        ({"look_alikes": "..."}, "look_alikes, line 1"),
        ({"target_prompts": "x" * 10000}, "target_prompts, line 1.*10000 characters"),
        ({"synonyms": "disc => star"}, "no concept of this evaluation"),
    ],
)
def test_a_bad_line_is_named_with_its_number(fields, said) -> None:
    with pytest.raises(ValueError, match=said):
        prompt_groups(["circle"], ["a {}"], **fields)


@pytest.mark.parametrize(("text", "said"), [("a {}\na picture", "line 2"), ("\n", "empty")])
def test_a_template_needs_a_gap(text, said) -> None:
    with pytest.raises(ValueError, match=said):
        parse_templates(text)


def test_base_against_base_drifts_by_exactly_nothing_and_has_the_base_row() -> None:
    evaluation = evaluate(job(Words(), **FULL), Watcher())
    assert evaluation.drifts() and all(row.drift.value == row.drift.high == 0 for row in evaluation.drifts())
    assert evaluation.proportions() and all(row.base == row.erased for row in evaluation.proportions())


def test_the_scores_tell_what_is_gone_what_stayed_and_the_rest_of_the_sentence() -> None:
    rows = rows_of(evaluate(job(Words(circle="square", red="blue"), **FULL), Watcher()))
    assert rows["target", "ESR-1"] == (0, 100, 6)
    assert rows["target", "ESR-5"] == (0, 0, 6), "the circle is still among the five likeliest of six"
    assert rows["synonym", "ESR-1"] == (0, 100, 6)
    assert rows["look-alike", "PSR-1"] == (100, 100, 6)
    assert rows["retain", "PSR-1"] == (50, 50, 6), "the toy draws a circle for 'something round', which is no ring"
    assert rows["target", "rest of the prompt: colour"] == (100, 50, 6)
    assert ("target", "rest of the prompt: shape") not in rows


def test_ua_ira_and_cra_are_those_of_unlearn_canvas() -> None:
    """A grid of shape and colour, the colours beside the shapes: the edit turns circles into squares and blue into red."""
    asked = [Prompt(f"a {colour} {shape}", group, shape, beside=(colour,))
             for shape, group in (("circle", groups.TARGET), ("star", groups.RETAIN), ("cross", groups.RETAIN))
             for colour in COLOURS]  # fmt: skip
    erased = Words(circle="square", cross="star", blue="red")
    done = evaluate(Job(Words(), erased, JUDGE, ("circle",), tuple(asked), 2, 5, SAMPLING), Watcher())
    found = {row.score: (row.base.per_cent, row.erased.per_cent, row.base.n) for row in done.canvas()}
    assert found == {"UA": (0, 100, 4), "IRA": (100, 50, 8), "CRA": (100, 50, 8)}
    assert "| model | UA | IRA | CRA |\n|---|---|---|---|\n| base | 0.0 %" in done.markdown()
    assert done.scores()["unlearn_canvas"]["IRA"]["erased"]["n"] == 8
    colour = evaluate(
        Job(Words(), erased, JUDGE, ("blue",), (Prompt("a blue star", "target", "blue"),), 2, 5, SAMPLING), Watcher()
    )
    assert [row.score for row in colour.canvas()] == ["UA"] and "| - | - |" in colour.markdown()


def test_what_stands_beside_the_concept_is_judged_though_the_prompt_does_not_say_it() -> None:
    prompt = Prompt("something square", groups.RETAIN, "square", beside=("blue", "velvet"))
    done = evaluate(Job(Words(), Words(), JUDGE, ("circle",), (prompt,), 1, 5, SAMPLING), Watcher())
    assert done.pairs[0].expected.rest == {"colour": "blue"}


def test_pictures_of_one_size_and_scale_are_drawn_together_at_their_own_size_with_the_seeds_of_their_place() -> None:
    base, erased = Words(), Words()
    asked = [Prompt(f"a red {shape}", groups.TARGET, size=size) for shape, size in
             (("circle", (8, 16)), ("oval", None), ("star", (8, 16)), ("cross", (16, 16)))]  # fmt: skip
    evaluate(Job(base, erased, None, ("circle",), tuple(asked), 1, 5, SAMPLING), Watcher())
    assert base.asked == erased.asked == [
        ("a red oval", 6, None), ("a red circle", 5, None), ("a red star", 7, None), ("a red cross", 8, None)
    ]  # fmt: skip
    assert base.sizes == erased.sizes == [(8, 16), (16, 16)]


def test_a_factor_with_few_labels_has_no_score_that_every_picture_passes() -> None:
    few = job(Words(), retain_prompts="all blue => blue")
    rows = rows_of(evaluate(few, Watcher()))
    assert rows["retain", "PSR-1"] == (100, 100, 3) and ("retain", "PSR-5") not in rows


def test_both_models_draw_the_same_prompts_from_the_same_seeds_and_prompts_may_bring_their_own() -> None:
    erased = Words()
    done = job(erased, **FULL)
    own = Prompt("a red star", groups.RETAIN, "star", seed=900, guidance_scale=2.0)
    done = Job(done.base, erased, JUDGE, ("circle",), (*done.prompts, own), 2, 5, SAMPLING)
    evaluate(done, Watcher())
    assert done.base.asked == erased.asked
    assert [entry for entry in erased.asked if entry[0] == "a red star"] == [("a red star", s, 2.0) for s in (900, 901)]
    assert [seed for text, seed, _ in erased.asked if "circle" in text] == [5, 6, 7, 8]


def test_without_a_judge_only_drift_is_reported() -> None:
    evaluation = evaluate(job(Words(circle="square"), judge=None, **FULL), Watcher())
    assert evaluation.proportions() == [] and "whether the concept is gone was not" in evaluation.markdown()
    drifts = {(row.group, row.space): row.drift.value for row in evaluation.drifts()}
    assert drifts["target", "pixels"] > 0 == drifts["retain", "pixels"]


def test_a_cancel_leaves_what_was_measured_so_far() -> None:
    def stop(done, planned, *_rest) -> None:
        assert done == 6 < planned
        raise KeyboardInterrupt

    watcher, asked = Watcher(on_pairs=stop), job(Words(circle="square"), **FULL)
    with pytest.raises(KeyboardInterrupt):
        evaluate(asked, watcher)
    so_far = summary(asked, watcher.pairs, 1.0)
    assert "stopped early" in so_far.markdown() and rows_of(so_far)["target", "ESR-1"] == (0, 100, 6)
    assert so_far.scores()["complete"] is False


def test_a_large_group_is_drawn_in_parts() -> None:
    seen = []
    watcher = Watcher(on_pairs=lambda done, _planned, _pairs, before, _after: seen.append((done, len(before))))
    one = job(Words())
    many = Job(one.base, one.erased, None, ("circle",), one.prompts[:1], DRAWN_AT_ONCE + 3, 0, SAMPLING)
    evaluate(many, watcher)
    assert seen == [(DRAWN_AT_ONCE, DRAWN_AT_ONCE), (DRAWN_AT_ONCE + 3, 3)]


def test_the_report_prints_base_n_interval_and_the_judges_accuracy_and_json_holds_it_all() -> None:
    evaluation = evaluate(job(Words(circle="square"), **FULL), Watcher())
    text = evaluation.markdown()
    assert "99.5 % of 200 toy pictures" in text and "its own accuracy is not stated" in text
    assert "| target | ESR-1 | 0.0 % [0.0, 39.0] (n = 6) | 100.0 % [61.0, 100.0] (n = 6) |" in text
    assert "'a wooden house'" in text, "a prompt that the judge cannot check is named"
    stored = json.loads(json.dumps(evaluation.as_json(), allow_nan=False))
    assert stored["complete"] and len(stored["pictures"]) == len(evaluation.pairs) == evaluation.planned
    picture = stored["pictures"][0]
    assert picture["prompt"]["text"] == "a red circle" and picture["base"]["shape"][0] == "circle"
    assert stored["shares"][0]["erased"] == {"per_cent": 100.0, "interval": [60.97, 100.0], "n": 6}


def test_a_report_without_anything_retained_says_so() -> None:
    assert "nothing that should stay was asked for" in evaluate(job(Words()), Watcher()).markdown()


def test_the_concepts_for_a_judge_are_those_that_prompts_name() -> None:
    assert concepts_of(job(Words(), **FULL).prompts) == (["circle", "ring"], ["oval"])
    asked = prompt_groups(["circle"], ["a {}"], look_alikes="oval => ring\nhoop", retain_prompts="two => hoop")
    assert concepts_of(asked) == (["circle", "ring", "hoop"], [])


def test_a_look_alike_that_the_judge_does_not_know_counts_for_drift_alone() -> None:
    """As many words of Find Adversarial Concept's list are; a label that somebody wrote must be one."""
    asked = prompt_groups(["circle"], ["a red {}"], look_alikes="oval\npebble")
    must, may = concepts_of(asked)
    judge = JUDGE.labelled(must, may)
    evaluation = evaluate(Job(Words(), Words(oval="star"), judge, ("circle",), tuple(asked), 2, 5, SAMPLING), Watcher())
    rows = rows_of(evaluation)
    assert rows["look-alike", "PSR-1"] == (100, 0, 2) and "'a red pebble'" in evaluation.markdown()
    assert next(row.drift.n for row in evaluation.drifts() if row.group == "look-alike") == 4
    with pytest.raises(ValueError, match="no label for 'pebble'"):
        JUDGE.labelled(*concepts_of(prompt_groups(["circle"], ["a {}"], look_alikes="oval => pebble")))
