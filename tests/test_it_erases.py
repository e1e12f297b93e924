"""The pack erases: a judge sees the target before, does not see it afterwards, and still sees a neighbour."""

from __future__ import annotations

from typing import Any

import pytest
from concept_erasure.erasure_core.concepts import parse_request
from concept_erasure.erasure_core.erased_unet import ErasedUNet, load_erased_unet
from concept_erasure.erasure_core.method import methods
from concept_erasure.erasure_core.training.run import Training
from torch import Tensor

from testbed.files import BOOK_EDIT_WEIGHTS, EDIT_WEIGHTS
from testbed.playground import Playground, load_picture_book

pytestmark = pytest.mark.usefixtures("as_a_node_runs")

TARGET, NEIGHBOUR, ANCHOR, PICTURES = "circle", "square", "star", 16
SENTENCES = {
    "shape": [f"a {colour} {{}}" for colour in ("red", "blue", "green", "yellow")],
    "thing": [f"a {{}} in {style} style" for style in ("flat", "shaded", "glossy")],
}
"""By the factor that a judge sees, how the playground and the picture book are asked for it."""
REDUCED = {
    "ap": {"steps": 40, "trajectories": 8, "candidates": 16},
    "uce": {"vocabulary": "shapes_and_colours"},
    "spm": {"steps": 60, "learning_rate": 6e-3, "trajectories": 8, "sampling_steps": 12},
}


def seen(testbed: Playground, model: object, name: str, instead: str = "") -> float:
    """Share of pictures of a shape in four colours, or of a thing in three styles, in which the judge sees it, or sees
    something else in its place."""
    (factor,) = SENTENCES.keys() & testbed.judges.keys()
    sentences = SENTENCES[factor]
    prompts = [sentences[i % len(sentences)].format(name) for i in range(PICTURES)]
    draw = testbed.draw_base if model is testbed.model else lambda *asked: testbed.draw(model, *asked)
    return testbed.judged(draw(prompts, 5))[factor].count(instead or name) / PICTURES


def erased_by(testbed: Playground, name: str) -> ErasedUNet:
    """What the node makes with the reduced settings."""
    from concept_erasure.nodes.erase import erase

    method = methods()[name](seed=1, **REDUCED[name])
    return erase(testbed.model, testbed.clip, parse_request(f"{TARGET} => {ANCHOR}"), method, 64, 64)[0]


def check_erased(testbed: Playground, erased: ErasedUNet, target: str = TARGET, neighbour: str = NEIGHBOUR) -> None:
    """The target goes from seen to not seen while the neighbour stays."""
    from concept_erasure.nodes import host

    edited = host.patched(testbed.model, erased, 1.0)
    assert seen(testbed, testbed.model, target) >= 0.9, "the base model does not draw the target"
    gone, kept = seen(testbed, edited, target), seen(testbed, edited, neighbour)
    assert gone <= 0.25, f"the judge sees the {target} in {gone:.0%} of the pictures"
    assert kept >= 0.85, f"the judge sees the {neighbour} in only {kept:.0%} of the pictures"


def check_turned(testbed: Playground, erased: ErasedUNet) -> None:
    """The same, and the target becomes what it was told to become, not just something else."""
    from concept_erasure.nodes import host

    check_erased(testbed, erased)
    edited = host.patched(testbed.model, erased, 1.0)
    became = seen(testbed, edited, TARGET, ANCHOR)
    assert became >= 0.5, f"the judge sees a {ANCHOR} in only {became:.0%} of the pictures of a {TARGET}"


@pytest.mark.parametrize("name", REDUCED)
def test_a_method_erases(testbed: Playground, name: str) -> None:
    # AP pushes far past the anchor, so that the target becomes something else again
    check = check_erased if name == "ap" else check_turned
    check(testbed, erased_by(testbed, name))


def test_a_loss_with_its_sign_turned_is_seen(testbed: Playground, monkeypatch) -> None:
    losses = Training.erase_and_retain

    def turned(self: Training, *given: Any) -> tuple[Tensor, Tensor]:
        erase, retain = losses(self, *given)
        return -erase, retain

    monkeypatch.setattr(Training, "erase_and_retain", turned)
    with pytest.raises((AssertionError, FloatingPointError)):
        check_turned(testbed, erased_by(testbed, "spm"))


def test_the_edit_that_is_shipped_erases(testbed: Playground) -> None:
    check_erased(testbed, load_erased_unet(EDIT_WEIGHTS))


def test_the_edit_that_is_shipped_with_the_picture_book_erases() -> None:
    check_erased(load_picture_book(), load_erased_unet(BOOK_EDIT_WEIGHTS), "cat", "lion")
