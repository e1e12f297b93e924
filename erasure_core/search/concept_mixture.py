"""Search for the mixture of a few candidates that makes a quantity largest (AGE, arXiv 2501.18950, section 4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..denoiser import Conditioning
from ..report import Check, unwatched
from ..text.candidates import Candidates
from ..training.optimiser import ScaledAdam
from .adversary import Damage, gumbel_noise

LATE_NOISE = 0.1  # what is left at the end of the run of the noise that makes the search try candidates out


@dataclass(frozen=True)
class ConceptMixture:
    """A few candidates by their index, and their weights (k,), which fall and sum to 1."""

    index: Tensor
    weights: Tensor


def mixture_of(logits: Tensor, temperature: float, k: int) -> ConceptMixture:
    """softmax(logits / temperature), cut to its k largest entries and renormalised. Differentiable in the logits kept."""
    weights, index = torch.softmax(logits / temperature, dim=-1).topk(min(k, len(logits)))
    return ConceptMixture(index, weights / weights.sum())


def blended(prompts: Conditioning, weights: Tensor) -> Conditioning:
    """Weighted sums of k prompts each: from n times k prompts and weights (k,), n prompts."""
    n = len(prompts) // len(weights)
    return prompts.mixed(torch.block_diag(*[weights.unsqueeze(0)] * n))


def adversarial_gain(
    damage: Damage, target: Conditioning, mixed: Conditioning, retain_weight: float, maps: bool
) -> Tensor:
    """L1 + lambda L2 on the probes, a scalar with gradient to `mixed` through the edited and the frozen network.
    L1 counts only if the mixture is what the target is mapped to (`maps`)."""
    with damage.frozen():
        original = damage.predictions(mixed)
    gain = retain_weight * damage.between(damage.predictions(mixed), original).sum()
    if maps:
        with torch.no_grad():
            erased = damage.predictions(target)
        gain = gain + damage.between(erased, original).sum()
    return gain


@torch.no_grad()
def frozen_distances(damage: Damage, concepts: Conditioning, target: Conditioning, check: Check = unwatched) -> Tensor:
    """||eps(c) - eps(target)||^2 of the frozen model on the probes for each of n concepts, (n,), on the CPU.

    An erasure spreads to what the model draws alike (AGE, section 3), which the text encoder's similarity need not show.
    """
    distances = []
    with damage.frozen():
        wanted = damage.predictions(target)
        for i in range(len(concepts)):
            check()
            distances.append(damage.between(damage.predictions(concepts.rows(i)), wanted))
    return torch.cat(distances).cpu()


class MixtureSearch:
    """Ascends a target's logits over the candidates, each step for a mixture that Gumbel noise has stirred.

    Every target has logits and an optimiser of its own. The noise falls over the run, so that late mixtures are decided
    by the logits; without it the candidates that start among the k largest would be the only ones ever tried.
    """

    def __init__(
        self,
        candidates: Candidates,
        gain: Callable[[Conditioning], Tensor],
        *,
        temperature: float,
        mixed: int,
        learning_rate: float,
        generator: torch.Generator,
        optimiser: Callable[..., ScaledAdam] = ScaledAdam,
    ) -> None:
        self._candidates, self._gain = candidates, gain
        self._temperature, self._mixed, self._generator = temperature, mixed, generator
        device = candidates.conditioning.tokens.device
        self.logits = torch.zeros(len(candidates), device=device, requires_grad=True)
        self._optimiser = optimiser([self.logits], learning_rate)
        self._noise = 1.0

    def words(self, mixture: ConceptMixture) -> list[str]:
        """The candidates that the mixture is made of, the heaviest first."""
        return [self._candidates.words[i] for i in mixture.index.tolist()]

    def draw(self) -> ConceptMixture:
        """A mixture at the present noise, with gradient to the logits."""
        noise = gumbel_noise((len(self._candidates),), self._generator).to(self.logits.device)
        return mixture_of(self.logits + self._noise * noise, self._temperature, self._mixed)

    def step(self, progress: float) -> None:
        """One ascent step; `progress` is the share of the run that is over."""
        self._noise = LATE_NOISE**progress
        with torch.enable_grad():
            mixture = self.draw()
            prompts = self._candidates.conditioning.rows(mixture.index)
            self._optimiser.step(-self._gain(blended(prompts, mixture.weights)))
