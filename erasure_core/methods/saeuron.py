"""SAeUron, arXiv 2501.18052: flip the few latents of a sparse autoencoder that fire for the target, while sampling.

score(i,t,c) = mu(i,t,D_c) / sum_j mu(j,t,D_c) - mu(i,t,D_other) / sum_j mu(j,t,D_other),  S_t = the latents with the
highest scores; at each position of a block's output x, with f = SAE.encode(x),
f'_i = gamma mu(i,t,D_c) / mean_t mu(i,t,D_c) f_i  if i in S_t and f_i > mean over all concepts of mu(i,t),  else f_i,
out = x + (f' - f) W_dec: where nothing fires, exactly x. mu is the mean over pictures and positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..concepts import ErasureRequest
from ..denoiser import Denoiser
from ..erased_unet import HOOK_PREFIX, ErasedUNet
from ..erased_unet.fingerprint import same_checkpoint
from ..method import ErasureMethod, check_prompts, provenance, setting
from ..report import Report
from ..sae.autoencoder import ConceptSAE, concept_score, default_block, mean_activity, selected
from ..sae.latent_edit import LatentEdits, SelectedLatents, listed_latents
from ..sae.training import SAESettings, gather, train_sae
from ..text.candidates import candidates_of
from ..text.prompt_templates import draw_templates
from ..text.synonyms import template_words_like
from ..text.vocabulary import word_list

VECTORS = 200_000
BLOCKS = ("all", "last", "middle")


@dataclass(frozen=True, kw_only=True)
class SAeUron(ErasureMethod):
    """Flip the latents that fire for the target; the weights stay as they are."""

    name = "saeuron"
    title = "SAeUron: sparse autoencoder latents"
    paper = "arXiv 2501.18052"
    needs = ("unet_blocks",)
    parts = {
        "{layer}": {
            "encoder": "latents width",
            "bias": "latents",
            "decoder": "latents width",
            "factor": "levels latents",
            "gate": "levels latents",
            "sigmas": "levels",
        }
    }

    gamma: float = setting(
        -3.0,
        "Factor on the target's latents: 0 silences them, below 0 pushes away from the target.",
        minimum=-100.0,
        maximum=1.0,
        step=0.1,
    )
    latents: int = setting(
        16, "How many latents are changed at each noise level, in each block.", minimum=1, maximum=4096
    )
    selectivity: float = setting(
        3.0,
        "How many times more than for other words a latent must fire for the target to be changed. Lower selects "
        "more latents, including ones that unrelated pictures need.",
        minimum=1.0,
        maximum=1000.0,
        step=0.1,
    )
    blocks: str = setting(
        "all",
        "Which transformer blocks are edited if no concept SAE is linked: all, the last, or the one past the middle "
        "that the paper uses. A linked SAE decides for itself.",
        choices=BLOCKS,
    )
    first_share: float = setting(
        0.0, "Where the edit begins, as a share of the noise levels: 0 is pure noise.", minimum=0.0, maximum=1.0
    )
    last_share: float = setting(1.0, "Where the edit ends: 1 is the finished picture.", minimum=0.0, maximum=1.0)
    both_halves: bool = setting(
        False, "Also edit the rows of the negative prompt, as the paper's code does.", advanced=True
    )
    vocabulary: str = word_list(
        "Source of the other words that the target is compared with. model_words are the most frequent whole words "
        "of the text encoder."
    )
    candidates: int = setting(
        24, "How many other words, those nearest to a target, are drawn.", minimum=2, maximum=3000
    )
    trajectories: int = setting(
        24,
        "Sampling runs for each target, each in another sentence, and as many with other words in the same sentences.",
        minimum=1,
        maximum=256,
        advanced=True,
    )
    sampling_steps: int = setting(16, "Sampling steps of those runs.", minimum=2, maximum=200, advanced=True)
    guidance_scale: float = setting(
        3.0, "Guidance scale of those runs.", minimum=1.0, maximum=20.0, step=0.5, advanced=True
    )
    steps: int = setting(
        200, "Training steps of each block's autoencoder, if none is linked.", minimum=1, maximum=100000
    )
    learning_rate: float = setting(
        2e-3, "Step size of that training.", minimum=1e-7, maximum=0.1, step=1e-5, advanced=True
    )
    expansion: int = setting(4, "Latents for each channel of the block.", minimum=1, maximum=64, advanced=True)
    k: int = setting(32, "How many latents fire at a position, on average.", minimum=1, maximum=1024, advanced=True)

    def erase(self, denoiser: Denoiser, request: ErasureRequest, report: Report) -> ErasedUNet:
        """See `ErasureMethod.erase`; the result acts at inference. Also raises ValueError for an SAE of another model
        and if no latent tells the target from other words."""
        check_prompts(denoiser, request)
        if self.first_share >= self.last_share:
            raise ValueError(
                f"saeuron: first_share is {self.first_share:g} and last_share {self.last_share:g}, so no noise level "
                f"is edited; lower first_share"
            )
        generator = torch.Generator().manual_seed(self.seed)
        outputs = self._outputs(denoiser, request, generator, report)
        sigmas = denoiser.sigmas(self.sampling_steps)[:-1].float().cpu()

        # a linked SAE reads one block; without one, each block's SAE is trained on the outputs that also choose its latents
        tensors: dict[str, Tensor] = {}
        for index, (block, vectors) in enumerate(outputs.items()):
            place = (index, len(outputs))
            sae = request.sae or self._train(denoiser, block, vectors.flatten(0, 2), generator, report, place)
            chosen = self._choose(sae.to(denoiser.device), vectors, sigmas, request.targets, report)
            if chosen is not None:
                tensors |= {f"{HOOK_PREFIX}{block}.{name}": part for name, part in chosen.tensors().items()}
        if not tensors:
            raise ValueError(
                f"no latent fires {self.selectivity:g} times as much for the target as for other words; lower selectivity, "
                "or train the SAE longer (steps), on sentences that say the target, or with a larger expansion"
            )
        return ErasedUNet(tensors, provenance(self, denoiser, request, kind="hook"))

    def _outputs(
        self, denoiser: Denoiser, request: ErasureRequest, generator: torch.Generator, report: Report
    ) -> dict[str, Tensor]:
        """Block -> its outputs (levels, prompts, positions, d), while pictures of the targets are sampled and, last, those
        of other words."""
        blocks = self._blocks(denoiser, request.sae, report)
        prompts = self._sentences(denoiser, request, generator, report)
        outputs = gather(
            denoiser,
            blocks,
            prompts,
            steps=self.sampling_steps,
            guidance_scale=self.guidance_scale,
            limit=VECTORS,
            generator=generator,
            check=report.check,
        )
        report.costs["UNet_evaluations_for_trajectories"] = 2 * len(prompts) * self.sampling_steps
        return outputs

    def _blocks(self, denoiser: Denoiser, sae: ConceptSAE | None, report: Report) -> dict[str, nn.Module]:
        blocks = denoiser.blocks("transformer")
        if sae is None:
            names = {"all": list(blocks), "last": list(blocks)[-1:], "middle": [default_block(list(blocks))]}
            return {name: blocks[name] for name in names[self.blocks]}
        if sae.family != denoiser.family or sae.block not in blocks:
            raise ValueError(
                f"the linked concept SAE reads {sae.block!r} of {sae.family} models, the MODEL is {denoiser.family}; "
                f"link an SAE of this MODEL, or none"
            )
        if not same_checkpoint(sae.fingerprint, denoiser.fingerprint):
            report.note("the concept SAE was trained on another checkpoint: check that the target is gone")
        return {sae.block: blocks[sae.block]}

    def _sentences(
        self, denoiser: Denoiser, request: ErasureRequest, generator: torch.Generator, report: Report
    ) -> list[str]:
        """`trajectories` sentences for each target, and after those of all targets as many with other words in its place."""
        nearest = candidates_of(denoiser, request, report, self.vocabulary, self.candidates)
        others = list(dict.fromkeys((*request.retain, *nearest.words)))
        avoid = template_words_like(denoiser, request.targets)
        about_targets, about_others = [], []
        for target in request.targets:
            templates = draw_templates(target, self.trajectories, generator, avoid)
            order = torch.randperm(len(others), generator=generator).tolist()
            for i, template in enumerate(templates):
                about_targets.append(template.with_concept(target))
                about_others.append(template.with_concept(others[order[i % len(order)]]))
        return about_targets + about_others

    def _train(
        self,
        denoiser: Denoiser,
        block: str,
        data: Tensor,
        generator: torch.Generator,
        report: Report,
        place: tuple[int, int],
    ) -> ConceptSAE:
        done, blocks = place

        def on_step(step: int, loss: float) -> None:
            report.check()
            report.log({"fvu": loss})
            report.on_progress(done * self.steps + step, blocks * self.steps, loss)

        settings = SAESettings(expansion=self.expansion, k=self.k, steps=self.steps, learning_rate=self.learning_rate)
        return train_sae(
            data,
            settings,
            generator=generator,
            block=block,
            family=denoiser.family,
            fingerprint=denoiser.fingerprint,
            on_step=on_step,
        )

    @torch.no_grad()
    def _choose(
        self, sae: ConceptSAE, vectors: Tensor, sigmas: Tensor, targets: tuple[str, ...], report: Report
    ) -> SelectedLatents | None:
        """Scores, choice and tables for one block, from its vectors (levels, prompts, positions, d)."""
        # mu(i, t, D) of each target, and of the other words, which come after all targets
        activity = mean_activity(sae, vectors)
        means = [part.mean(1).cpu() for part in activity.split(self.trajectories, dim=1)][: len(targets)]
        other = activity[:, len(targets) * self.trajectories :].mean(1).cpu()
        factor, gate = torch.ones_like(other), torch.stack([*means, other]).mean(0)
        share = torch.arange(len(sigmas)) / max(len(sigmas) - 1, 1)
        inside = (share >= self.first_share) & (share <= self.last_share)

        for target, mean in zip(targets, means, strict=True):
            score = concept_score(mean, other)
            top = selected(score, self.latents, mean >= self.selectivity * other) & inside[:, None]
            factor = torch.where(top, self.gamma * mean / mean.mean(0).clamp_min(1e-8), factor)
            report.note(f"{sae.block}: latents changed for {target!r}: {listed_latents(top, score)}")

        unexplained, firing, dead = sae.measured(vectors.flatten(0, 2))
        report.note(
            f"{sae.block}: the SAE leaves {100 * unexplained:.0f} % unexplained (FVU), {firing:.0f} of {sae.latents} latents "
            f"fire at a position, {100 * dead:.0f} % never do"
        )
        return SelectedLatents.of(sae, factor, gate, sigmas)

    @classmethod
    def inference(cls, erased: ErasedUNet) -> LatentEdits:
        """See `ErasureMethod.inference`."""
        return LatentEdits.read(erased.parts(), bool(erased.provenance.settings.get("both_halves")))
