"""AP as its published code runs it, call by call, to compare `ap` with: arXiv 2410.15618, equation 5.

Each loop draws a target, a candidate and a noise level, and samples two latents up to that level with the network as it
is now: about as many guided steps as there are noise levels, for one sample each of target and candidate, of which only
the last latents are used. Every other loop changes the edit, those between change the search.

Mended, because the fault leaves nothing to compare: a latent is scored at its own noise level, not at one about two
sampling steps noisier, and no target is among the candidates. Not repeated: a second copy of the model and the gradients of
weights that are not trained, which cost memory and time and change no number.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..concepts import ErasureRequest
from ..denoiser import Conditioning
from ..guidance import negative_guidance
from ..method import setting
from ..report import STEPS, Work
from ..search.adversary import Gumbel
from ..text.candidates import Candidates, candidate_choice, with_neighbours
from ..text.synonyms import synonym_limit
from ..text.vocabulary import word_list
from ..training.optimiser import scaled_adam
from ..training.settings import edit_rank, eta, layer_group, optimiser_steps, retaining, step_size
from ..training.trained import TrainedMethod, Training
from ..training.trajectory import NoisyBatch, guided_run


@dataclass(frozen=True)
class Searches:
    """The state of a run: the candidates, and a search over them for each target."""

    candidates: Candidates
    by_target: Mapping[str, Gumbel]


@dataclass(frozen=True)
class Loop:
    """One loop's data: a noisy sample of the target and the desired prediction for it, a sample of the candidate that was
    drawn, and the search that drew it."""

    target: NoisyBatch
    desired: Tensor
    preserved: NoisyBatch
    search: Gumbel
    word: str


@dataclass(frozen=True, kw_only=True)
class PublishedLoop(TrainedMethod):
    """AP by its authors' loop and settings: a sampling run for each training sample, hours where `ap` takes minutes. Lines to
    retain are candidates like others."""

    name = "ap_reference"
    title = "AP reference: AP's published loop, for comparison"
    paper = "arXiv 2410.15618"
    draws_targets = False

    # no settings here: a loop has one sample of the target, and its sampling runs are not kept
    batch: int = field(default=1, init=False)
    trajectories: int = field(default=0, init=False)

    layers: str = layer_group("cross_attention")
    steps: int = optimiser_steps(1000)
    learning_rate: float = step_size(1e-5)
    rank: int = edit_rank(0)
    guidance_scale: float = setting(
        3.0,
        "Guidance scale of the sampling runs that give the noisy samples.",
        minimum=1.0,
        maximum=20.0,
        step=0.5,
        advanced=True,
    )
    sampling_steps: int = setting(
        50,
        "Sampling steps of a whole run; each run stops at a noise level drawn anew.",
        minimum=2,
        maximum=200,
        advanced=True,
    )
    negative_guidance: float = eta(1.0)
    retain_weight: float = retaining(1.0, "Weight of preserving the candidate that was drawn (lambda).")
    vocabulary: str = word_list()
    candidates: int = setting(100, "How many candidates are searched.", minimum=2, maximum=3000)
    prefilter: str = candidate_choice("spread")
    synonym_similarity: float = synonym_limit()
    temperature: float = setting(
        2.0, "Temperature of the search.", minimum=0.01, maximum=100.0, step=0.1, advanced=True
    )
    search_learning_rate: float = setting(
        0.01, "Step size of the search.", minimum=1e-4, maximum=10.0, step=0.01, advanced=True
    )

    def work(self, request: ErasureRequest) -> Work:
        """See `ErasureMethod.work`: in a step two loops, each of two latents that are sampled half of the way, guided, and
        then as many predictions again as the few that teach and learn."""
        one = 4.0 * self.sampling_steps + 20.0
        return {**super().work(request), STEPS: (self.steps * len(request.pairs), one)}

    def prepare(self, run: Training) -> Searches:
        """Encode and filter the candidates, which all targets share, and set up a search for each target."""
        choice = (self.vocabulary, self.candidates, self.synonym_similarity, self.prefilter)
        candidates = with_neighbours(run.denoiser, run.request, run.report, *choice)
        how = (self.search_learning_rate, self.temperature, run.generator, scaled_adam(run.denoiser, run.report))
        return Searches(candidates, {target: Gumbel(candidates, None, *how) for target in run.request.targets})

    def losses(self, run: Training, state: Searches) -> dict[str, Tensor]:
        """Equation 5 in the next loop for the edit, after the loop for the search that lies between two of them."""
        if run.step:
            loop = self.loop(run, state, searching=True)
            _, retain = run.erase_and_retain(loop.target, loop.desired, loop.preserved)
            loop.search.ascend(retain)
        loop = self.loop(run, state, searching=False)
        run.report.adversarial[loop.word] += 1
        erase, retain = run.erase_and_retain(loop.target, loop.desired, loop.preserved)
        return {"erase": erase, "retain": self.retain_weight * retain}

    def loop(self, run: Training, state: Searches, searching: bool) -> Loop:
        """The next loop; `searching` lets gradients through the candidate's text to the logits that drew it."""
        encode, candidates = run.denoiser.encode, state.candidates.conditioning
        pair = run.pick(run.request.pairs)
        search = state.by_target[pair.target]
        word, hard, drawn = search.draw()
        steps, _ = run.denoiser.sampling(self.sampling_steps, self.guidance_scale)
        level = int(torch.randint(steps, (), generator=run.generator))
        noise = torch.randn(run.denoiser.empty_latents(1).shape, generator=run.generator).to(run.denoiser.device)

        # z_e and z_a of equation 5: both from the same noise, by the network as it is now
        z_e, sigma = self._sampled(run, encode([pair.target]), noise, level)
        z_a, _ = self._sampled(run, candidates.mixed(hard), noise, level)

        conditional, unconditional = (teacher(run, z_e, sigma, encode([prompt])) for prompt in (pair.target, ""))
        anchor = teacher(run, z_e, sigma, encode([pair.anchor])) if pair.anchor else unconditional
        original = teacher(run, z_a, sigma, candidates.mixed(hard))
        text = candidates.mixed(drawn if searching else hard)
        not_predicted = torch.full_like(original, torch.nan)
        return Loop(
            NoisyBatch(z_e, sigma, encode([pair.target]), conditional, unconditional),
            negative_guidance(anchor, conditional, unconditional, self.negative_guidance),
            NoisyBatch(z_a, sigma, text, original, not_predicted),
            search,
            word,
        )

    def _sampled(self, run: Training, text: Conditioning, noise: Tensor, level: int) -> tuple[Tensor, Tensor]:
        """Latents (1, channels, ...) sampled from `noise` with the present network, and their noise level (1,)."""
        steps, _ = run.denoiser.sampling(self.sampling_steps, self.guidance_scale)
        sigmas = run.denoiser.sigmas(steps)
        latents = noise * sigmas[0]
        sampling = (self.sampling_steps, self.guidance_scale)
        partial = guided_run(run.denoiser, text, noise, *sampling, run.report.check, run.pool.counted)
        for _, after in itertools.islice(partial, level):
            latents = after
        return latents, sigmas[level : level + 1]


@torch.no_grad()
def teacher(run: Training, latents: Tensor, sigma: Tensor, text: Conditioning) -> Tensor:
    """The frozen network's prediction, computed anew each time."""
    run.report.costs["UNet_evaluations_of_the_teacher"] += len(sigma)
    with run.deltas.disabled():
        return run.denoiser.predict(latents, sigma, text)
