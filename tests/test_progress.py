"""The progress of a run: it grows from the first second to the end, and tells how long it will take."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
import torch
from concept_erasure.erasure_core.concepts import parse_request
from concept_erasure.erasure_core.denoiser import Conditioning
from concept_erasure.erasure_core.report import EVALUATIONS, STEPS, TEXT, Progress, duration
from erasure_tests.small import make
from erasure_tests.toy import ToyDenoiser


class Clock:
    """A clock that work moves on."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


class Watched(Progress):
    """Keeps what it showed, with the time."""

    def __init__(self, clock: Clock, *work: object) -> None:
        self.shares: list[tuple[float, float]] = []
        self.texts: list[tuple[float, str]] = []
        super().__init__(
            *work,
            show=lambda share: self.shares.append((clock.now, share)),
            say=lambda text: self.texts.append((clock.now, text)),
            clock=clock,
        )

    check = Progress.__call__

    def picture(self, image: object) -> None:
        """No node, no picture."""

    def standstill(self) -> float:
        """The longest time between two moves of half a per cent, which is what ComfyUI's bar shows, as a share of all."""
        moves = [self.shares[0]]
        for at, share in self.shares:
            if share - moves[-1][1] >= 0.005:
                moves.append((at, share))
        gaps = [b - a for (a, _), (b, _) in zip(moves, [*moves[1:], self.shares[-1]], strict=True)]
        return max(gaps) / (self.shares[-1][0] - self.shares[0][0])


class SlowToy(ToyDenoiser):
    """A toy whose every prompt and evaluation takes its time, and tells it as the host's denoiser does."""

    def __init__(self, clock: Clock, text: float, evaluation: float) -> None:
        super().__init__()
        self.clock, self.text, self.evaluation = clock, text, evaluation
        self.tell, self.seen = Progress(), set()

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """See `Denoiser`."""
        for prompt in dict.fromkeys(prompts):
            if prompt not in self.seen:
                self.seen.add(prompt)
                self.clock.now += self.text
                self.tell(text=1)
        return super().encode(prompts)

    def predict(self, latents: torch.Tensor, sigma: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """See `Denoiser`."""
        self.clock.now += self.evaluation * len(sigma)
        if not torch.is_grad_enabled():
            self.tell(evaluations=len(sigma))
        return super().predict(latents, sigma, conditioning)


@pytest.mark.parametrize("seconds", [(0.5, 0.05), (0.001, 0.5)], ids=["slow text", "text from the cache"])
@pytest.mark.parametrize("name", ["ap", "dumo", "esd", "mace", "saeuron", "spm", "uce"])
def test_the_bar_never_stands_still_and_never_goes_back(name: str, seconds: tuple[float, float]) -> None:
    from devtools.hosting.inprocess import load_comfy

    load_comfy()
    from concept_erasure.nodes.runs.erase_progress import reporting

    clock, request = Clock(), parse_request("circle")
    method = make(name, steps=8, vocabulary="everyday_words")
    denoiser, progress = SlowToy(clock, *seconds), Watched(clock, method.work(request))
    progress.check("loading the model")
    denoiser.tell = progress
    method.erase(denoiser, request, reporting(denoiser, request, method, None, progress))
    before = progress.share
    progress.finish()
    shares = [share for _, share in progress.shares]
    assert shares == sorted(shares) and shares[0] < 0.01 and shares[-1] == 1 and before > 0.4
    assert next(at for at, share in progress.shares if share > 0) <= 101, "the first second shows nothing"
    assert progress.standstill() < 0.3
    took = clock.now - 100
    assert 1 <= len(progress.texts) <= took + 1, "more than a message a second"
    assert progress.texts[0][1] == "loading the model" and (took < 5 or progress.texts[-1][1].endswith(" left"))


def test_the_time_left_is_measured() -> None:
    clock = Clock()
    progress = Watched(clock, {TEXT: (10, 1.0), STEPS: (100, 1.0)})
    for _ in range(10):
        clock.now += 1
        progress("encoding", text=1)
    assert progress.seconds_left() == pytest.approx(100), "a kind that has not begun is guessed from the others"
    for step in range(1, 101):
        clock.now += 3
        progress.reached(f"step {step}", step, 100)
        if step == 50:
            assert progress.seconds_left() == pytest.approx(150)
            assert progress.texts[-1] == (clock.now, "step 50, about 2 min left")
            assert progress.share == pytest.approx(0.5, abs=0.1)
    assert progress.share > 0.95


def test_a_wrong_plan_moves_the_bar_faster_or_slower() -> None:
    for planned in (0, 10, 10_000):
        clock = Clock()
        progress = Watched(clock, {EVALUATIONS: (planned, 1.0)})
        for _ in range(100):
            clock.now += 1
            progress(evaluations=1)
        shares = [share for _, share in progress.shares]
        assert all(after > before for before, after in itertools.pairwise(shares)) or shares[-1] == 0.99
        assert shares == sorted(shares) and shares[-1] < 1
        progress.finish()
        assert progress.shares[-1][1] == 1


def test_steps_that_are_counted_anew_are_not_counted_twice() -> None:
    clock = Clock()
    progress = Watched(clock, {STEPS: (60, 1.0)})
    for _target in range(2):
        for step in range(1, 31):
            clock.now += 1
            progress.reached("a step", step, 30)
    assert progress.left[STEPS] == 0


@pytest.mark.parametrize(
    ("seconds", "said"), [(0, "5 s"), (41, "40 s"), (59, "1 min"), (460, "8 min"), (4800, "1 h 20 min")]
)
def test_durations_are_said_as_people_say_them(seconds: float, said: str) -> None:
    assert duration(seconds) == said
