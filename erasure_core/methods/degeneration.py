"""Degeneration-Tuning, arXiv 2308.02552: teach the model that the concept's name means a picture cut up and shuffled.

E ||eps - eps_edit(z_t(scrambled), c_target)||^2 + E ||eps - eps_edit(z_t(ordinary), c_ordinary)||^2, plain denoising
losses. The scrambled pictures are the model's own (or the user's) of the target; each keeps its patches, so its colours
and textures, and loses its composition. The ordinary pictures are the model's own of other words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..concepts import ErasureRequest
from ..method import setting
from ..text.candidates import candidates_of
from ..text.synonyms import synonym_limit
from ..text.vocabulary import word_list
from ..training.clean_latents import CleanLatents, finished, linked_pictures, noised, shown
from ..training.settings import noise_level_weighting, retaining
from ..training.trained import TrainedMethod, Training


def scrambled(latents: Tensor, grid: int, generator: torch.Generator) -> Tensor:
    """Each of the latents (n, ..., height, width) cut into grid x grid equal patches in a random order of its own, the same
    for all that stands between n and height. Latents are local, so this scrambles the picture. What a side leaves over at
    its end stays where it is.

    Raises ValueError if the latents are smaller than the grid.
    """
    shape = latents.shape
    latents = latents.flatten(1, -3)
    n, channels, height, width = latents.shape
    if min(height, width) < grid:
        raise ValueError(
            f"grid is {grid}, but the latents are only {height}x{width}: lower grid, or raise width and height"
        )
    tall, wide = height // grid, width // grid
    inner = latents[:, :, : tall * grid, : wide * grid]
    patches = inner.reshape(n, channels, grid, tall, grid, wide).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    orders = torch.stack([torch.randperm(grid * grid, generator=generator) for _ in range(n)]).to(latents.device)
    patches = patches[torch.arange(n, device=latents.device)[:, None], orders]
    result = latents.clone()
    result[:, :, : tall * grid, : wide * grid] = (
        patches.unflatten(1, (grid, grid)).permute(0, 3, 1, 4, 2, 5).reshape(inner.shape)
    )
    return result.reshape(shape)


@dataclass(frozen=True)
class Album:
    """Pictures of each target, in the order of the request, and ordinary pictures of each other word."""

    targets: list[CleanLatents]
    ordinary: list[CleanLatents]


@dataclass(frozen=True, kw_only=True)
class DegenerationTuning(TrainedMethod):
    """The target's name comes to mean a scrambled picture: visibly a refusal, not a substitute."""

    name = "degeneration"
    title = "Degeneration-Tuning: scrambled pictures"
    paper = "arXiv 2308.02552"
    uses_anchor: ClassVar[bool] = False

    grid: int = setting(
        4,
        "Rows and columns of patches that a picture of the target is cut into. More destroy more; colour stays.",
        minimum=2,
        maximum=64,
    )
    retain_weight: float = retaining(1.0, "Weight of the ordinary pictures.")
    vocabulary: str = word_list("Where the words of the ordinary pictures come from, besides the retain lines.")
    candidates: int = setting(
        24, "How many words have ordinary pictures: those nearest to a target.", minimum=2, maximum=3000
    )
    synonym_similarity: float = synonym_limit()
    retain_trajectories: int = setting(2, "Ordinary pictures of each word.", minimum=1, maximum=64, advanced=True)
    loss_weighting: str = noise_level_weighting("eps")

    def samples_kept(self, request: ErasureRequest) -> int:
        """See `TrainedMethod`; with the words that are held."""
        return super().samples_kept(request) + self.candidates * self.retain_trajectories * self.sampling_steps

    def prepare(self, run: Training) -> Album:
        """Draw the pictures, all by the frozen model."""
        linked = linked_pictures(run.request, run.denoiser.device)
        choice = (self.vocabulary, self.candidates, self.synonym_similarity)
        nearest = candidates_of(run.denoiser, run.request, run.report, *choice)
        words = list(dict.fromkeys([*run.request.retain, *nearest.words]))
        run.pool.fill(words, self.retain_trajectories)
        _, scale = run.denoiser.sampling(self.sampling_steps, self.guidance_scale)
        targets = [finished(run.pool.samples(target), self.trajectories, scale) for target in run.request.targets]
        if linked is not None:
            targets = [shown(linked, targets[0].conditioning)]
        ordinary = [finished(run.pool.samples(word), self.retain_trajectories, scale) for word in words]
        return Album(targets, ordinary)

    def losses(self, run: Training, state: Album) -> dict[str, Tensor]:
        """`degenerate` for one target, and `retain` for as many ordinary pictures, half of them of the retain lines."""
        target = run.in_turn(state.targets).drawn(self.batch, run.generator)
        target = CleanLatents(scrambled(target.latents, self.grid, run.generator), target.conditioning)
        named = state.ordinary[: len(run.request.retain)]
        albums = [run.pick(named if named and i % 2 else state.ordinary) for i in range(self.batch)]
        ordinary = CleanLatents.cat([album.drawn(1, run.generator) for album in albums])
        batches = [noised(run.denoiser, part, self.sampling_steps, run.generator) for part in (target, ordinary)]
        predicted = run.predict(*batches)
        degenerate, retain = (
            run.error(prediction, batch.conditional, batch.sigma)
            for prediction, batch in zip(predicted, batches, strict=True)
        )
        return {"degenerate": degenerate, "retain": self.retain_weight * retain}
