"""Trains a sparse autoencoder on the outputs of a block while the model samples. SAeUron, arXiv 2501.18052."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from ..denoiser import Denoiser
from ..inference import changed
from ..report import Check, unwatched
from ..training.trajectory import sample_trajectories
from .autoencoder import ConceptSAE, fvu

AUX_WEIGHT = 1 / 32
PROMPTS_AT_ONCE = 16
_MEDIAN_SAMPLE = 4096


@dataclass(frozen=True)
class SAESettings:
    """How an autoencoder is trained. `k` latents fire on average; `dead_after` vectors in a row without firing make a
    latent dead. `k` is lowered to half of the block's channels if it is more."""

    expansion: int = 4
    k: int = 32
    steps: int = 300
    learning_rate: float = 2e-3
    batch: int = 512
    dead_after: int = 10_000


@torch.no_grad()
def gather(
    denoiser: Denoiser,
    blocks: Mapping[str, nn.Module],
    prompts: Sequence[str],
    *,
    steps: int,
    guidance_scale: float,
    limit: int,
    generator: torch.Generator,
    check: Check = unwatched,
) -> dict[str, Tensor]:
    """The outputs of each block for the prompted half of guided sampling runs, one run a prompt, at all noise levels:
    name -> (steps, prompts, positions, channels) in float16 on the model's device.

    At each call the same number of positions is drawn at random, so that a block gives at most about `limit` vectors.
    """
    per_call = max(1, limit // (steps * len(prompts)))
    gathered: dict[str, list[Tensor]] = {name: [] for name in blocks}
    for rows in torch.arange(len(prompts)).split(PROMPTS_AT_ONCE):
        seen: dict[str, list[Tensor]] = {name: [] for name in blocks}

        def keep(name: str, n: int = len(rows), seen: dict = seen) -> Callable[[tuple, Tensor], Tensor]:
            def note(_given: tuple, output: Tensor) -> Tensor:
                vectors = output[:n].flatten(2).transpose(1, 2)
                chosen = torch.randperm(vectors.shape[1], generator=generator)[:per_call]
                seen[name].append(vectors[:, chosen.to(vectors.device)].to(torch.float16, copy=True))
                return output

            return note

        def at(doing: str, place: str = f"prompt {int(rows[0]) + 1} of {len(prompts)}") -> None:
            check(f"{place}, {doing}")

        conditioning = denoiser.encode([prompts[int(row)] for row in rows])
        with changed({module: keep(name) for name, module in blocks.items()}):
            sample_trajectories(denoiser, conditioning, steps, guidance_scale, generator, at)
        for name, vectors in seen.items():
            gathered[name].append(torch.stack(vectors))
    return {name: torch.cat(several, 1) for name, several in gathered.items()}


def geometric_median(points: Tensor, iterations: int = 30) -> Tensor:
    """The point (d,) with the least sum of distances to `points` (n, d), by Weiszfeld's iteration."""
    centre = points.mean(0)
    for _ in range(iterations):
        weights = 1 / (points - centre).norm(dim=1).clamp_min(1e-6)
        centre = (weights[:, None] * points).sum(0) / weights.sum()
    return centre


def batch_top_k(pre: Tensor, k: int) -> Tensor:
    """The k n largest of (n, latents) pre-activations, the others zero: k a vector on average. arXiv 2412.06410."""
    least = pre.flatten().topk(min(k * len(pre), pre.numel())).values[-1]
    return torch.where(pre >= least, pre, torch.zeros_like(pre))


class _Trainee:
    """The parameters while they are trained, on vectors scaled to unit mean square a channel."""

    def __init__(self, data: Tensor, latents: int, generator: torch.Generator) -> None:
        device, d = data.device, data.shape[1]
        some = torch.randint(len(data), (min(len(data), _MEDIAN_SAMPLE),), generator=generator).to(device)
        median = geometric_median(data[some].float())
        self.scale = float((data[some].float() - median).square().mean().sqrt().clamp_min(1e-6))
        rows = torch.randn(latents, d, generator=generator).to(device)
        self.decoder = nn.Parameter(rows / rows.norm(dim=1, keepdim=True))
        self.encoder = nn.Parameter(self.decoder.detach().clone())
        self.encoder_bias = nn.Parameter(torch.zeros(latents, device=device))
        self.decoder_bias = nn.Parameter(median / self.scale)
        self.silent = torch.zeros(latents, dtype=torch.long, device=device)

    def parameters(self) -> list[nn.Parameter]:
        return [self.encoder, self.encoder_bias, self.decoder, self.decoder_bias]

    def linear(self, x: Tensor) -> Tensor:
        return (x - self.decoder_bias) @ self.encoder.T + self.encoder_bias

    def loss(self, x: Tensor, k: int, dead_after: int) -> tuple[Tensor, Tensor]:
        """FVU, and AuxK: how much of the error the dead latents fail to explain."""
        linear = self.linear(x)
        latents = batch_top_k(torch.relu(linear), k)
        reconstruction = latents @ self.decoder + self.decoder_bias
        fired = (latents > 0).any(0)
        self.silent = torch.where(fired, torch.zeros_like(self.silent), self.silent + len(x))
        main = fvu(x, reconstruction)
        dead = (self.silent >= dead_after).nonzero().squeeze(1)
        if not len(dead):
            return main, torch.zeros_like(main)
        # not rectified: a latent that is negative everywhere would otherwise get no gradient and stay dead
        pre = (x - self.decoder_bias.detach()) @ self.encoder[dead].T + self.encoder_bias[dead]
        top = pre.topk(min(x.shape[1] // 2 or 1, len(dead)), dim=1)
        chosen = torch.zeros_like(pre).scatter(1, top.indices, top.values)
        residual = (x - reconstruction).detach()
        return main, fvu(residual, chosen @ self.decoder[dead])

    @torch.no_grad()
    def remove_parallel_gradient(self) -> None:
        """Take off the part of the decoder rows' gradient that would only change their length."""
        if (gradient := self.decoder.grad) is not None:
            gradient.sub_((gradient * self.decoder).sum(1, keepdim=True) * self.decoder)

    @torch.no_grad()
    def normalise(self) -> None:
        """Decoder rows back to length 1."""
        self.decoder.div_(self.decoder.norm(dim=1, keepdim=True).clamp_min(1e-8))

    @torch.no_grad()
    def threshold(self, x: Tensor, k: int) -> float:
        """The pre-activation over which k latents fire on average."""
        pre = torch.relu(self.linear(x)).flatten()
        return float(pre.topk(min(k * len(x) + 1, pre.numel())).values[-1])


def train_sae(
    data: Tensor,
    settings: SAESettings,
    *,
    generator: torch.Generator,
    block: str = "",
    family: str = "",
    fingerprint: str = "",
    on_step: Callable[[int, float], None] = lambda _step, _loss: None,
) -> ConceptSAE:
    """An autoencoder of vectors (n, d_in), by Adam with the step size falling linearly to zero; `on_step(step, loss)`
    follows each step and may raise to cancel. `training` of the result tells FVU, mean firing and dead share on `data`.

    Raises FloatingPointError if the vectors or the loss are not finite.
    """
    if not bool(torch.isfinite(data).all()):
        raise FloatingPointError(f"the output of {block or 'the block'} is not finite; the MODEL itself is broken")
    d = data.shape[1]
    k, latents = max(1, min(settings.k, d // 2)), settings.expansion * d
    trainee = _Trainee(data, latents, generator)
    optimiser = torch.optim.Adam(trainee.parameters(), lr=settings.learning_rate)

    def drawn(n: int) -> Tensor:
        rows = torch.randint(len(data), (n,), generator=generator).to(data.device)
        return data[rows].float() / trainee.scale

    # the decoder's rows keep length 1: the gradient along a row is taken off before a step, the rest of the drift after it
    with torch.enable_grad():
        for step in range(settings.steps):
            optimiser.param_groups[0]["lr"] = settings.learning_rate * (1 - step / settings.steps)
            main, aux = trainee.loss(drawn(settings.batch), k, settings.dead_after)
            loss = main + AUX_WEIGHT * aux
            if not math.isfinite(float(loss.detach())):
                raise FloatingPointError(
                    f"the autoencoder's loss is not finite at step {step + 1} of {settings.steps}; "
                    f"lower learning_rate (now {settings.learning_rate:g})"
                )

            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            trainee.remove_parallel_gradient()
            nn.utils.clip_grad_norm_(trainee.parameters(), 1.0)
            optimiser.step()
            trainee.normalise()
            on_step(step + 1, float(main.detach()))
    if not all(bool(parameter.isfinite().all()) for parameter in trainee.parameters()):
        raise FloatingPointError(
            f"the autoencoder is not finite after its last step; lower learning_rate (now {settings.learning_rate:g})"
        )
    return _finished(trainee, drawn(settings.batch * 4), k, data, settings, block, family, fingerprint)


@torch.no_grad()
def _finished(
    trainee: _Trainee,
    sample: Tensor,
    k: int,
    data: Tensor,
    settings: SAESettings,
    block: str,
    family: str,
    fingerprint: str,
) -> ConceptSAE:
    """In the units of the data: with x = s z, latents and biases are s times those of z and the matrices are the same."""
    plain = {
        "encoder": trainee.encoder.detach(),
        "encoder_bias": trainee.encoder_bias.detach() * trainee.scale,
        "decoder": trainee.decoder.detach(),
        "decoder_bias": trainee.decoder_bias.detach() * trainee.scale,
        "threshold": trainee.threshold(sample, k) * trainee.scale,
        "block": block,
        "k": k,
        "family": family,
        "fingerprint": fingerprint,
    }
    unexplained, firing, dead = ConceptSAE(**plain).measured(data)
    figures = {"vectors": len(data), "fvu": unexplained, "firing": firing, "dead_share": dead}
    return ConceptSAE(**plain, training=asdict(settings) | figures)
