"""The search for the adversarial concept: of all concepts that should stay, the one that the edit hurts most right now.

AP, arXiv 2410.15618, equation 5: max over c in C without the targets of ||eps_edit(z, c) - eps_frozen(z, c)||^2.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..denoiser import Conditioning, Denoiser
from ..guidance import squared_error
from ..memory.micro_batches import MicroBatched
from ..report import unwatched
from ..text.candidates import Candidates
from ..training.optimiser import ScaledAdam
from ..training.trajectory import NoisyBatch


def gumbel_noise(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Standard Gumbel noise: the argmax of logits plus such noise is a draw from their softmax (arXiv 1611.01144)."""
    uniform = torch.rand(shape, generator=generator).clamp(1e-9, 1 - 1e-7)
    return -(-uniform.log()).log()


class Adversary(Protocol):
    """A running search. `step` spends one search step on the present edit, `choose` names what to preserve next."""

    def step(self, progress: float) -> None:
        """One search step; `progress` is the share of the run that is over."""
        ...

    def choose(self, n: int) -> list[str]:
        """n concepts, the most hurt first."""
        ...


@dataclass
class Damage:
    """Measures how far the edit has moved predictions: the same latents and noise levels for every concept, so that
    the figures of two concepts compare. `frozen()` switches the edit off; `say(text)` is called when memory runs out."""

    denoiser: Denoiser
    probes: NoisyBatch
    frozen: Callable[[], AbstractContextManager] = nullcontext
    say: Callable[[str], object] = unwatched
    evaluations: int = 0

    def __post_init__(self) -> None:
        self._micro_batched = MicroBatched(self.denoiser.predict, self.say, doing=" while damage was measured")

    def predictions(self, conditioning: Conditioning) -> Tensor:
        """The present network's predictions for each of n prompts on each probe: (n * probes, channels, ...)."""
        n, probes = len(conditioning), len(self.probes.sigma)
        self.evaluations += n * probes
        # with gradient a micro-batch would be computed again when `frozen` is over
        predict = self.denoiser.predict if torch.is_grad_enabled() else self._micro_batched
        return predict(
            self.probes.latents.repeat(n, *[1] * (self.probes.latents.ndim - 1)),
            self.probes.sigma.repeat(n),
            conditioning.repeat(probes),
        )

    def between(self, edited: Tensor, original: Tensor) -> Tensor:
        """Mean squared change of the prediction a prompt, (n,), from two results of `predictions`."""
        probes = len(self.probes.sigma)
        sigma = self.probes.sigma.repeat(len(edited) // probes)
        return squared_error(edited, original, sigma).reshape(-1, probes).mean(1)

    @torch.no_grad()
    def of(self, conditioning: Conditioning) -> Tensor:
        """The damage of the present edit to each of n prompts, (n,)."""
        with self.frozen():
            original = self.predictions(conditioning)
        return self.between(self.predictions(conditioning), original)


class Scan:
    """Forward passes only: a running table of each candidate's damage, a few candidates measured again a step.

    It measures optimistically: by the last damage plus the growth to expect since, from how much re-measured candidates
    have changed. Candidates that were never measured come first. The frozen predictions are kept.
    """

    def __init__(self, candidates: Candidates, damage: Damage, per_step: int, generator: torch.Generator) -> None:
        self._candidates, self._measure, self._per_step = candidates, damage, per_step
        n = len(candidates)
        self._order = torch.randperm(n, generator=generator)
        self.damage = torch.zeros(n)
        self._measured_at = torch.full((n,), -1.0)
        self._drift, self._clock = 0.0, 0.0
        self._original: dict[int, Tensor] = {}

    def _next(self) -> list[int]:
        never = [int(i) for i in self._order if self._measured_at[i] < 0]
        age = (self._clock - self._measured_at).clamp(min=0)
        hope = self.damage + self._drift * age.sqrt()  # a random walk gets as far as the square root of its steps
        best = [int(i) for i in hope.argsort(descending=True) if self._measured_at[i] >= 0]
        return (never + best)[: self._per_step]

    @torch.no_grad()
    def step(self, progress: float) -> None:
        """Measure the candidates that may now be hurt most."""
        self._clock += 1
        index = self._next()
        for i, value in zip(index, self._measured(index).cpu(), strict=True):
            self._learn(i, value)

    def _measured(self, index: list[int]) -> Tensor:
        """The present damage of these candidates."""
        new = [i for i in index if i not in self._original]
        if new:
            with self._measure.frozen():
                original = self._measure.predictions(self._candidates.conditioning.rows(new))
            self._original |= dict(zip(new, original.chunk(len(new)), strict=True))
        edited = self._measure.predictions(self._candidates.conditioning.rows(index))
        return self._measure.between(edited, torch.cat([self._original[i] for i in index]))

    def _learn(self, i: int, damage: Tensor) -> None:
        if self._measured_at[i] >= 0:
            waited = max(1.0, self._clock - float(self._measured_at[i]))
            change = abs(float(damage - self.damage[i])) / waited**0.5
            self._drift += 0.1 * (change - self._drift)
        self.damage[i], self._measured_at[i] = damage, self._clock

    def choose(self, n: int) -> list[str]:
        """The n candidates with the largest damage in the table."""
        seen = [int(i) for i in self.damage.argsort(descending=True) if self._measured_at[i] >= 0]
        return [self._candidates.words[i] for i in (seen or self._order.tolist())[:n]]


class ScreenedScan(Scan):
    """A scan whose table is never old, for edits of layers that read the text and nothing else.

    How far the edit moves what those layers make of a candidate's text, sum_l ||dW_l c||^2, takes no run of the network, so it
    is known of every candidate in every step. Damage is taken to be as large as that, times a factor of the candidate: that
    of its last measurement, or before the first one a high guess, `UNSEEN` times the usual. A factor changes slowly, so
    only every `EVERY`th search step measures.
    """

    EVERY = 8
    UNSEEN = 1.5

    def __init__(
        self,
        candidates: Candidates,
        damage: Damage,
        per_step: int,
        generator: torch.Generator,
        moved: Callable[[], Tensor],
    ) -> None:
        """`moved` says how far the edit now moves the text of each candidate, (n,)."""
        super().__init__(candidates, damage, per_step, generator)
        self._moved, self._steps = moved, 0
        self._factor = torch.full((len(candidates),), torch.nan)

    @torch.no_grad()
    def step(self, progress: float) -> None:
        """Look at every candidate's text, and now and then measure those that are expected to be hurt most."""
        self._distance = self._moved().cpu()
        self._expect()
        if self._distance.any():  # before the first update there is nothing to measure
            if self._steps % self.EVERY == 0:
                super().step(progress)
            self._steps += 1

    def _next(self) -> list[int]:
        return self.damage.argsort(descending=True)[: self._per_step].tolist()

    def _expect(self) -> None:
        known = self._factor[~self._factor.isnan()]
        usual = float(known.median()) if len(known) else 1.0
        self.damage = self._distance * self._factor.nan_to_num(self.UNSEEN * usual)

    def _learn(self, i: int, damage: Tensor) -> None:
        if self._distance[i] > 0:
            self._factor[i] = damage / self._distance[i]
            self._expect()

    def choose(self, n: int) -> list[str]:
        """The n candidates with the largest damage to expect."""
        order = self.damage.argsort(descending=True) if self.damage.any() else self._order
        return [self._candidates.words[int(i)] for i in order[:n]]


class Random:
    """The control: random candidates, independent of the edit."""

    def __init__(self, candidates: Candidates, generator: torch.Generator) -> None:
        self._candidates, self._generator = candidates, generator

    def step(self, progress: float) -> None:
        """There is nothing to search."""

    def choose(self, n: int) -> list[str]:
        """n different candidates at random."""
        order = torch.randperm(len(self._candidates), generator=self._generator)[:n]
        return [self._candidates.words[int(i)] for i in order]


class Gumbel:
    """The paper's search: ascend logits over the candidates through a Gumbel-softmax draw, arXiv 2410.15618, section 4.

    Mended against the reference code: targets and synonyms are not among the candidates, the latents are scored at
    their own noise level, and the temperature falls by a factor of ten over the run, so that late draws are decided by
    the logits and not by the noise. The straight-through gradient reaches the logits through the edited network alone.
    `damage` may be None if only `draw` and `ascend` are called; `optimiser` makes the one that ascends.
    """

    def __init__(
        self,
        candidates: Candidates,
        damage: Damage | None,
        learning_rate: float,
        temperature: float,
        generator: torch.Generator,
        optimiser: Callable[..., ScaledAdam] = ScaledAdam,
    ) -> None:
        self._candidates, self._measure, self._temperature = candidates, damage, temperature
        self._generator = generator
        device = candidates.conditioning.tokens.device
        self.logits = torch.zeros(len(candidates), device=device, requires_grad=True)
        self._optimiser = optimiser([self.logits], learning_rate)
        self._scale = temperature

    def _noisy_logits(self, n: int) -> Tensor:
        noise = gumbel_noise((n, len(self._candidates)), self._generator).to(self.logits.device)
        return self.logits + noise * (self._scale / self._temperature)

    def step(self, progress: float) -> None:
        """One ascent step on the damage of one drawn candidate. Raises ValueError without a `damage` to measure with."""
        if (measure := self._measure) is None:
            raise ValueError("this search has no damage to measure; give it one, or call draw and ascend")
        self._scale = self._temperature * 0.1**progress
        with torch.enable_grad():
            _, hard, drawn = self.draw()
            conditioning = self._candidates.conditioning.mixed(drawn)
            with torch.no_grad(), measure.frozen():
                original = measure.predictions(self._candidates.conditioning.mixed(hard))
            self.ascend(measure.between(measure.predictions(conditioning), original))

    def draw(self) -> tuple[str, Tensor, Tensor]:
        """One candidate drawn at the present temperature: its name, the draw as a one-hot row (1, n), and the same with
        the straight-through gradient to the logits."""
        # straight-through Gumbel-softmax (arXiv 1611.01144): forward one candidate, backward the gradient of the mixture
        soft = torch.softmax(self._noisy_logits(1) / self._scale, dim=-1)
        hard = torch.nn.functional.one_hot(soft.argmax(-1), soft.shape[-1]).to(soft.dtype)
        return self._candidates.words[int(hard.argmax())], hard, hard + soft - soft.detach()

    def ascend(self, damage: Tensor) -> None:
        """One step of the logits towards more of `damage`, which hangs on a draw."""
        self._optimiser.step(-damage.sum())

    @torch.no_grad()
    def choose(self, n: int) -> list[str]:
        """n different candidates, drawn with Gumbel noise at the present temperature."""
        return [self._candidates.words[int(i)] for i in self._noisy_logits(1)[0].argsort(descending=True)[:n]]
