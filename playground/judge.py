"""The playground's judge: one small network per factor (shape, colour, fill), saved in transformers format."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .drawing import BACKGROUND, COLOURS, FILLS, SHAPES, Scene, draw, random_scene
from .training import Schedule, fast_precision, train

if TYPE_CHECKING:
    from comfy.taesd.taesd import TAESD
    from transformers import ResNetForImageClassification

FACTORS = {"shape": SHAPES, "colour": tuple(COLOURS), "fill": FILLS}
# a label must survive what is done to the picture: noise on the latents changes the colour long before the shape
LATENT_NOISE = {"shape": 0.35, "colour": 0.0, "fill": 0.35}
SCHEDULE = Schedule(steps=900, batch=64, learning_rate=2e-3, ema=0.99)


def new_judge(factor: str) -> ResNetForImageClassification:
    """A judge of about 0.2 M parameters that names the values of `factor`."""
    return new_classifier(FACTORS[factor], (24, 48, 96))


def new_classifier(labels: Sequence[str], widths: Sequence[int]) -> ResNetForImageClassification:
    """A residual network with one block a width, whose label map is `labels`."""
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(
        embedding_size=widths[0],
        hidden_sizes=list(widths),
        depths=[1] * len(widths),
        layer_type="basic",
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        return ResNetForImageClassification(config)


def labels_of(scene: Scene, factor: str) -> Tensor:
    """True label indices (n,) of a batch of drawings."""
    return {"shape": scene.shape, "colour": scene.colour, "fill": scene.fill}[factor]


def roughen(
    pictures: Tensor, autoencoder: TAESD | None, latent_noise: float, generator: torch.Generator, shift: int = 4
) -> Tensor:
    """Pictures as a diffusion model's decoder leaves them, so that the judge does not only know perfect drawings: moved
    by up to `shift` pixels (around the edges: none for pictures that reach them), faded, noisy, and blurred, or half of
    them decoded from latents that are off by up to `latent_noise`, if there is an autoencoder to decode them."""
    n = pictures.shape[0]
    moved = torch.randint(-shift, shift + 1, (2,), generator=generator).tolist()
    pictures = BACKGROUND + torch.roll(pictures - BACKGROUND, moved, (2, 3))
    if latent_noise and autoencoder is not None:
        half = n // 2
        strength = latent_noise * torch.rand(half, 1, 1, 1, generator=generator)
        with torch.no_grad(), fast_precision():
            latents = autoencoder.taesd_encoder(pictures[:half]).float()
            decoded = autoencoder.taesd_decoder(latents + strength * torch.randn(latents.shape, generator=generator))
        pictures = torch.cat([decoded.float().clamp(0, 1), pictures[half:]])
    else:
        blurred = nn.functional.avg_pool2d(pictures, 3, stride=1, padding=1, count_include_pad=False)
        pictures = pictures.lerp(blurred, torch.rand(n, 1, 1, 1, generator=generator))
    fade = 1 + 0.25 * (torch.rand(n, 1, 1, 1, generator=generator) - 0.7)
    noise = 0.05 * torch.rand(n, 1, 1, 1, generator=generator) * torch.randn(pictures.shape, generator=generator)
    return (BACKGROUND + (pictures - BACKGROUND) * fade + noise).clamp(0, 1)


def train_judges(
    folder: Path, autoencoder: TAESD, schedule: Schedule = SCHEDULE, factors: Iterable[str] = FACTORS
) -> dict[str, ResNetForImageClassification]:
    """Train one judge per factor on fresh drawings only; it never sees a picture of the diffusion model."""
    judges = {}
    for factor in factors:
        module = new_judge(factor)

        def loss(batch: int, generator: torch.Generator, module: nn.Module = module, factor: str = factor) -> Tensor:
            scene = random_scene(batch, generator)
            pictures = roughen(draw(scene), autoencoder, LATENT_NOISE[factor], generator)
            logits = module(pixel_values=(pictures - 0.5) / 0.5).logits
            return nn.functional.cross_entropy(logits, labels_of(scene, factor), label_smoothing=0.05)

        checkpoint = folder / f"judge_{factor}.pt"
        judges[factor] = train(f"judge of {factor}", module, loss, schedule, seed=12, checkpoint=checkpoint)
    return judges


@torch.no_grad()
def top_labels(judge: nn.Module, pictures: Tensor, k: int, batch: int = 256) -> Tensor:
    """The k likeliest label indices (n, k) that `judge` gives to pictures (n, 3, 64, 64) in [0, 1]; fewer if it has fewer."""
    answers = [judge(pixel_values=(part - 0.5) / 0.5).logits for part in pictures.split(batch)]
    return torch.cat([logits.topk(min(k, logits.shape[1]), dim=-1).indices for logits in answers])


def verdicts(judge: nn.Module, pictures: Tensor) -> Tensor:
    """The likeliest label index (n,) of each picture."""
    return top_labels(judge, pictures, 1)[:, 0]


def accuracy(judges: Mapping[str, nn.Module], pictures: Tensor, scene: Scene) -> dict[str, float]:
    """Share of pictures, per factor, in which the judge sees what `scene` says."""
    return {
        factor: float((verdicts(judge, pictures) == labels_of(scene, factor)).float().mean())
        for factor, judge in judges.items()
    }
