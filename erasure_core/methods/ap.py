"""Adversarial Preservation (AP), arXiv 2410.15618: while a target is erased, preserve what the edit hurts most right now.

min over the edit, max over c_a in C without the targets, of
||eps_edit(z_e, c_e) - desired||^2 + lambda ||eps_edit(z_a, c_a) - eps(z_a, c_a)||^2   (equation 5).
The paper's desired prediction is the anchor's; its code pushes past it, which `negative_guidance` keeps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..concepts import ErasureRequest
from ..method import setting
from ..search.adversary import Adversary, Damage, Gumbel, Random, Scan
from ..search.reference_loop import ReferenceLoop
from ..text.candidates import Candidates, candidates_of
from ..text.prompt_templates import siblings
from ..text.synonyms import synonym_limit
from ..text.vocabulary import VOCABULARIES
from ..training.optimiser import scaled_adam
from ..training.trained import TrainedMethod, Training
from ..training.trajectory import NoisyBatch

PROBE_LEVELS, PROBE_RUNS = 4, 2


@dataclass(frozen=True, kw_only=True)
class AdversarialPreservation(TrainedMethod):
    """Erase a target and preserve the concepts that this very edit is hurting most."""

    name = "ap"
    title = "AP: adversarial preservation"
    paper = "arXiv 2410.15618"

    negative_guidance: float = setting(
        2.0, "How far past the anchor the target is pushed (eta).", minimum=0.0, maximum=10.0, step=0.1
    )
    retain_weight: float = setting(
        3.0, "Weight of preserving the adversarial concepts (lambda).", minimum=0.0, maximum=100.0, step=0.1
    )
    search: str = setting(
        "scan",
        "How the adversarial concept is found. scan measures a few candidates a step, without gradients; gumbel is the "
        "paper's search; random preserves candidates at random (a control); none preserves only the empty prompt.",
        choices=("scan", "gumbel", "random", "none"),
    )
    vocabulary: str = setting(
        "everyday_words",
        "Where the candidates come from. model_words are the most frequent whole words of the text encoder.",
        choices=VOCABULARIES,
    )
    candidates: int = setting(100, "How many candidates are searched.", minimum=2, maximum=3000)
    prefilter: str = setting(
        "nearest",
        "Which words of the vocabulary become candidates: the nearest to a target, a spread over all distances, or the "
        "first of the list.",
        choices=("nearest", "spread", "first"),
        advanced=True,
    )
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
        8,
        "Sampling steps of those runs. Fewer are cheaper: many concepts are preserved, each only now and then.",
        minimum=2,
        maximum=200,
        advanced=True,
    )

    schedule: str = setting(
        "fast",
        "fast learns on sampling runs of the frozen model that are kept and used again, several samples a step. reference is "
        "the published loop call by call, to compare with: a sampling run for each single sample, hours for minutes.",
        choices=("fast", "reference"),
        advanced=True,
    )

    @property
    def draws_targets(self) -> bool:
        """See `TrainedMethod`; the published loop keeps no sampling runs."""
        return self.schedule == "fast"

    def samples_in_a_step(self, request: ErasureRequest) -> int:
        """See `TrainedMethod`."""
        return self.batch + self.preserved + bool(request.retain) if self.schedule == "fast" else 2

    def samples_kept(self, request: ErasureRequest) -> int:
        """See `TrainedMethod`; at most every candidate, retain line and neighbour is preserved at one time or another."""
        own = len(request.targets) * self.trajectories * self.sampling_steps
        preserved = min(self.candidates, self.preserved * self.steps * len(request.pairs)) + len(request.retain)
        others = preserved * self.retain_trajectories * self.retain_sampling_steps
        return own + others if self.schedule == "fast" else 0

    def prepare(self, run: Training) -> Adversary | ReferenceLoop | None:
        """Encode and filter the candidates, and set up the search."""
        if self.schedule == "reference":
            return self._published(run)
        if self.search == "none":
            return None
        candidates = self._candidates(run)
        if self.search == "random":
            return Random(candidates, run.generator)
        damage = Damage(run.denoiser, self._probes(run), run.deltas.disabled, run.report.note)
        if self.search == "scan":
            return Scan(candidates, damage, self.scan_width, run.generator)
        return self._gumbel(run, candidates, damage)

    def _gumbel(self, run: Training, candidates: Candidates, damage: Damage | None) -> Gumbel:
        descent = scaled_adam(run.denoiser, run.report)
        return Gumbel(candidates, damage, self.search_learning_rate, self.temperature, run.generator, descent)

    def _published(self, run: Training) -> ReferenceLoop:
        run.report.note(
            "the reference schedule searches by gumbel and takes samples one by one: search, batch, preserved, search_steps, "
            "trajectories and the retain runs have no effect, and the retain lines are candidates like others"
        )
        candidates = self._candidates(run)
        searches = {target: self._gumbel(run, candidates, None) for target in run.request.targets}
        return ReferenceLoop(
            run, candidates, searches, self.sampling_steps, self.guidance_scale, self.negative_guidance
        )

    def _candidates(self, run: Training) -> Candidates:
        kept = candidates_of(
            run.denoiser,
            run.request,
            run.report,
            vocabulary=self.vocabulary,
            keep=self.candidates,
            how=self.prefilter,
            synonym_similarity=self.synonym_similarity,
        )
        neighbours = [word for target in run.request.targets for word in siblings(target)]
        own = ("", *run.request.retain, *(word for word in neighbours if not run.request.says_target(word)))
        own = [line for line in dict.fromkeys(own) if line not in kept.words]
        return Candidates(
            (*own, *kept.words), type(kept.conditioning).cat([run.denoiser.encode(own), kept.conditioning])
        )

    def _probes(self, run: Training) -> NoisyBatch:
        """Noisy samples on the way to no particular picture, at evenly spread noise levels, to measure damage on."""
        run.pool.fill([""], PROBE_RUNS)
        samples = run.pool.samples("")
        levels = torch.linspace(0, len(samples.sigma) - 1, PROBE_LEVELS + 2)[1:-1].round().long()
        return samples.rows(levels.to(samples.sigma.device))

    def losses(self, run: Training, state: Adversary | ReferenceLoop | None) -> dict[str, Tensor]:
        """`erase` for one target, `retain` for the concepts that the search names, and the user's retain lines."""
        if isinstance(state, ReferenceLoop):
            return self._published_losses(run, state)
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
        kept = run.retained(concepts, self.retain_trajectories, self.retain_sampling_steps)
        erase, retain = self._terms(run, target, desired, kept)
        # equation 5 sums over the targets, and `erase` is their mean: without the division many targets would be outweighed
        return {"erase": erase, "retain": self.retain_weight / len(run.request.pairs) * retain}

    def _published_losses(self, run: Training, schedule: ReferenceLoop) -> dict[str, Tensor]:
        """Those of the next loop for the edit, after the loop for the search that lies between two of them."""
        if run.step:
            loop = schedule.loop(searching=True)
            _, retain = self._terms(run, loop.target, loop.desired, loop.kept)
            loop.search.ascend(retain)
        loop = schedule.loop(searching=False)
        run.report.adversarial[loop.word] += 1
        erase, retain = self._terms(run, loop.target, loop.desired, loop.kept)
        return {"erase": erase, "retain": self.retain_weight * retain}

    def _terms(self, run: Training, target: NoisyBatch, desired: Tensor, kept: NoisyBatch) -> tuple[Tensor, Tensor]:
        """The two terms of equation 5, without lambda."""
        predicted, predicted_kept = run.predict(target, kept)
        erase = run.error(predicted, desired, target.sigma)
        return erase, run.error(predicted_kept, kept.conditional, kept.sigma)
