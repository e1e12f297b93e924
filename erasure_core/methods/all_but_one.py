"""All but One, arXiv 2312.12807: change only the direction into which guidance pulls for the target.

With d(z, c) = eps(z, c) - eps(z, ""), and the unconditional score pinned to where it was:
||d_edit(z, c_target) - d(z, c_anchor)||^2 + lambda ||eps_edit(z, "") - eps(z, "")||^2.
Reconstructed: the paper could not be read in full; what it does without a substitute, and lambda, are ours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from ..denoiser import Conditioning
from ..method import setting
from ..training.settings import eta, retaining
from ..training.trained import TrainedMethod, Training


@dataclass(frozen=True, kw_only=True)
class AllButOne(TrainedMethod):
    """Match the target's guidance direction to the anchor's and leave the unconditional prediction alone."""

    name = "all_but_one"
    title = "All but One: guidance directions"
    paper = "arXiv 2312.12807"

    negative_guidance: float = eta(
        1.0,
        "How far the target's own direction is reversed where a line names no anchor (eta); an anchor is matched as it is.",
    )
    unconditional_weight: float = setting(
        1.0,
        "Weight of leaving the unconditional prediction where it was (lambda); 0 leaves that term out.",
        minimum=0.0,
        maximum=100.0,
        step=0.1,
    )
    retain_weight: float = retaining()

    def prepare(self, run: Training) -> Conditioning:
        """The conditioning of the empty prompt."""
        return run.denoiser.encode([""])

    def losses(self, run: Training, state: Conditioning) -> dict[str, Tensor]:
        """`direction`, `unconditional` unless its weight is 0, and `retain` if the user named something to retain."""
        pair = run.in_turn(run.request.pairs)
        target, desired = run.samples_of(pair, self.batch, 0.0 if pair.anchor else self.negative_guidance)
        empty = replace(target, conditioning=state.repeat(self.batch))
        predicted, unconditional = run.predict(target, empty)
        original = run.pool.predict(empty)
        # d(z, c) = eps(z, c) - eps(z, "") of the edited and of the frozen model
        direction, wanted = predicted - unconditional, desired - original
        terms = {"direction": run.error(direction, wanted, target.sigma)}
        if self.unconditional_weight:
            moved = run.error(unconditional, original, target.sigma)
            terms["unconditional"] = self.unconditional_weight * moved
        return terms | run.retain_loss(self.retain_weight, self.batch, self.trajectories)
