"""The playground's UNet: the layout ComfyUI detects as Stable Diffusion 1.5, cut down to one level (18.7 M parameters)."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .drawing import COLOURS, FILLS, GENERIC_SHAPES, SHAPES, SYNONYMS, TEMPLATES, Scene, caption, draw, random_scene
from .text_encoder import encode_captions
from .training import Schedule, fast_precision, initialise, train

if TYPE_CHECKING:
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
    from comfy.taesd.taesd import TAESD

SCHEDULE = Schedule(steps=3600, batch=32, learning_rate=6e-4, ema=0.9985)
DRAWINGS = 16000


def new_unet(seed: int = 21) -> UNetModel:
    """ComfyUI's own UNet module in the playground's size, with random weights and silent output layers."""
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    module = UNetModel(
        image_size=8,
        in_channels=4,
        out_channels=4,
        model_channels=320,
        channel_mult=[1],
        num_res_blocks=[1],
        transformer_depth=[1],  # pyright: ignore[reportArgumentType] - ComfyUI declares an int and takes a list
        transformer_depth_output=[1, 1],
        transformer_depth_middle=-2,
        context_dim=768,
        num_heads=8,
        num_head_channels=-1,
        use_spatial_transformer=True,
        use_linear_in_transformer=False,
        legacy=False,
        dtype=torch.float32,
        operations=comfy.ops.disable_weight_init,
    )
    initialise(module, seed)
    # every residual branch starts at zero, as is usual for this architecture: training is stable from the first step
    for name, layer in module.named_modules():
        if name.endswith(("out_layers.3", "proj_out")) or name == "out.2":
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)
    return module


def alphas_cumprod() -> Tensor:
    """Stable Diffusion's noise levels, (1000,): the scaled-linear beta schedule of arXiv 2112.10752."""
    return torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0).float()


def every_caption() -> list[str]:
    """All captions that `drawing.caption` can give."""
    shapes = (*SHAPES, *SYNONYMS.values(), *GENERIC_SHAPES)
    words = itertools.product(("", *FILLS), ("", *COLOURS), shapes)
    phrases = [" ".join(word for word in triple if word) for triple in words]
    return ["", *(template.format(phrase) for template in TEMPLATES for phrase in phrases)]


@torch.no_grad()
def encode_drawings(autoencoder: TAESD, scene: Scene, batch: int = 64) -> Tensor:
    """Latents (n, 4, 8, 8) as the UNet sees them: the autoencoder's output times Stable Diffusion's 0.18215."""
    parts = []
    for rows in torch.arange(len(scene.shape)).split(batch):
        part = Scene(*(getattr(scene, field)[rows] for field in Scene.__dataclass_fields__))
        with fast_precision():
            parts.append(autoencoder.encode(draw(part) * 2 - 1).float() * 0.18215)
    return torch.cat(parts)


def noise_loss(
    unet: nn.Module, latents: Tensor, context: Tensor, levels: Tensor, generator: torch.Generator, gamma: float = 5.0
) -> Tensor:
    """Noise-prediction error under min-SNR weighting (arXiv 2303.09556, equation 8): high noise, where the shape is
    decided, would otherwise count for little."""
    timestep = torch.randint(1000, (latents.shape[0],), generator=generator)
    noise = torch.randn(latents.shape, generator=generator)
    alpha = levels[timestep][:, None, None, None]
    noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
    snr = alpha / (1 - alpha)
    weight = snr.clamp(max=gamma) / snr
    with fast_precision():
        predicted = unet(noisy, timestep, context=context).float()
    return (weight.clamp(min=0.1) * (predicted - noise).square()).mean()


def train_unet(
    folder: Path,
    autoencoder: TAESD,
    text_weights: dict[str, Tensor],
    schedule: Schedule = SCHEDULE,
    without: str | None = None,
) -> nn.Module:
    """Train (or go on training) the UNet; `without` leaves one shape out of the world (the gold reference)."""
    name = "unet" if without is None else f"unet_without_{without}"
    generator = torch.Generator().manual_seed(22)
    allowed = tuple(index for index, shape in enumerate(SHAPES) if shape != without)
    scene = random_scene(DRAWINGS, generator, allowed)
    latents = encode_drawings(autoencoder, scene)
    captions = every_caption()
    row_of = {text: row for row, text in enumerate(captions)}
    contexts, _ = encode_captions(captions, text_weights)
    levels, unet = alphas_cumprod(), new_unet()

    def loss(batch: int, generator: torch.Generator) -> Tensor:
        rows = torch.randint(DRAWINGS, (batch,), generator=generator)
        context = contexts[[row_of[caption(scene, int(row), generator)] for row in rows]]
        return noise_loss(unet, latents[rows], context, levels, generator)

    return train(name, unet, loss, schedule, seed=23, checkpoint=folder / f"{name}.pt")
