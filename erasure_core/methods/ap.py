"""Adversarial Preservation (AP), arXiv 2410.15618: while a target is erased, preserve what the edit hurts most right now.

min over the edit, max over c_a in C without the targets, of
||eps_edit(z_e, c_e) - desired||^2 + lambda ||eps_edit(z_a, c_a) - eps(z_a, c_a)||^2   (equation 5).
The paper's desired prediction is the anchor's; its code pushes past it, which `negative_guidance` keeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..concepts import ErasureRequest
from ..families import reads_text_alone
from ..method import setting
from ..search.adversary import Adversary, Damage, Gumbel, Random, Scan, ScreenedScan
from ..text.candidates import Candidates, candidate_choice, with_neighbours
from ..text.synonyms import synonym_limit
from ..text.vocabulary import word_list
from ..training.optimiser import scaled_adam
from ..training.settings import eta, retaining, sampling_length, step_size
from ..training.trained import TrainedMethod, Training
from ..training.trajectory import SAMPLES_AT_ONCE, NoisyBatch

PROBE_LEVELS, PROBE_RUNS = 2, 1


@dataclass(frozen=True, kw_only=True)
class AdversarialPreservation(TrainedMethod):
    """Erase a target and preserve the concepts that this very edit is hurting most."""

    name = "ap"
    title = "AP: adversarial preservation"
    paper = "arXiv 2410.15618"

    learning_rate: float = step_size(2e-3)
    sampling_steps: int = sampling_length(10)
    negative_guidance: float = eta(3.0)
    retain_weight: float = retaining(4.0, "Weight of preserving the adversarial concepts (lambda).")
    search: str = setting(
        "scan",
        "How the adversarial concept is found. scan measures a few candidates a step, without gradients; gumbel is the "
        "paper's search; random preserves candidates at random (a control); none preserves only the empty prompt.",
        choices=("scan", "gumbel", "random", "none"),
    )
    vocabulary: str = word_list()
    candidates: int = setting(100, "How many candidates are searched.", minimum=2, maximum=3000)
    prefilter: str = candidate_choice()
    synonym_similarity: float = synonym_limit()
    search_steps: int = setting(1, "Search steps in an optimiser step.", minimum=1, maximum=64, advanced=True)
    scan_width: int = setting(
        4, "Candidates that scan measures in a search step.", minimum=1, maximum=256, advanced=True
    )
    preserved: int = setting(
        4, "Adversarial concepts preserved in an optimiser step, the worst first.", minimum=1, maximum=64, advanced=True
    )
    temperature: float = setting(
        2.0, "Temperature of the gumbel search at the start.", minimum=0.01, maximum=100.0, step=0.1, advanced=True
    )
    search_learning_rate: float = setting(
        0.1, "Step size of the gumbel search.", minimum=1e-4, maximum=10.0, step=0.01, advanced=True
    )
    retain_trajectories: int = setting(
        1, "Sampling runs for each preserved concept.", minimum=1, maximum=64, advanced=True
    )
    retain_sampling_steps: int = setting(
        6,
        "Sampling steps of those runs. Fewer are cheaper: many concepts are preserved, each only now and then.",
        minimum=2,
        maximum=200,
        advanced=True,
    )

    def samples_in_a_step(self, request: ErasureRequest) -> int:
        """See `TrainedMethod`."""
        return self.batch + self.preserved + bool(request.retain)

    def samples_kept(self, request: ErasureRequest) -> int:
        """See `TrainedMethod`; at most every candidate and retain line is preserved at one time or another."""
        targets = (len(request.targets) + len(request.wider)) * self.trajectories * self.sampling_steps
        preserved = self.candidates + len(request.retain)
        return targets + preserved * self.retain_trajectories * self.retain_sampling_steps

    def prepare(self, run: Training) -> Adversary | None:
        """Encode and filter the candidates, and set up the search."""
        if self.search == "none":
            return None
        candidates = self._candidates(run)
        if self.search == "random":
            return Random(candidates, run.generator)
        damage = Damage(run.denoiser, self._probes(run), run.deltas.disabled, run.report.note)
        if self.search == "gumbel":
            return self._gumbel(run, candidates, damage)
        if self.layers == "cross_attention_kv" and reads_text_alone(run.denoiser.family):
            read = run.denoiser.read(candidates.conditioning.tokens)
            return ScreenedScan(candidates, damage, self.scan_width, run.generator, lambda: run.deltas.moved(read))
        return Scan(candidates, damage, self.scan_width, run.generator)

    def _gumbel(self, run: Training, candidates: Candidates, damage: Damage) -> Gumbel:
        optimiser = scaled_adam(run.denoiser, run.report)
        return Gumbel(candidates, damage, self.search_learning_rate, self.temperature, run.generator, optimiser)

    def _candidates(self, run: Training) -> Candidates:
        choice = (self.vocabulary, self.candidates, self.synonym_similarity, self.prefilter)
        return with_neighbours(run.denoiser, run.request, run.report, *choice)

    def _probes(self, run: Training) -> NoisyBatch:
        """Noisy samples on the way to no particular picture, from the middle of the run, to measure damage on."""
        self._draw(run, [""], PROBE_RUNS)
        return run.pool.samples("").spread(PROBE_LEVELS)

    def _draw(self, run: Training, concepts: Sequence[str], runs: int) -> None:
        """Draw the trajectories of concepts that are to be preserved. They are not guided: that costs half as much, and what
        is preserved is the prediction for the concept."""
        run.pool.fill(concepts, runs, self.retain_sampling_steps, guidance_scale=1.0)

    def losses(self, run: Training, state: Adversary | None) -> dict[str, Tensor]:
        """`erase` for one target, `retain` for the concepts that the search names, and the user's retain lines."""
        concepts = [""]
        if state is not None:
            for _ in range(self.search_steps):
                state.step(run.step / run.steps)
            concepts = state.choose(self.preserved)
        for concept in concepts:
            run.report.adversarial[concept] += 1
        if run.request.retain:
            concepts = [*concepts, run.pick(run.request.retain)]

        target, desired = run.targets(self.batch, self.negative_guidance)
        if not run.pool.has(concepts):
            # others that the search would name are drawn along: sixteen samples at once take little longer than four
            others = state.choose(SAMPLES_AT_ONCE - bool(run.request.retain)) if state is not None else []
            self._draw(run, [*concepts, *others], self.retain_trajectories)
        preserved = NoisyBatch.cat([run.pool.draw(concept, 1)[0] for concept in concepts])
        erase, retain = run.erase_and_retain(target, desired, preserved)
        # equation 5 sums over the targets, and `erase` is their mean: without the division many targets would be outweighed
        return {"erase": erase, "retain": self.retain_weight / len(run.request.pairs) * retain}
