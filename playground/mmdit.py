"""The playground in flow form: an MMDiT that ComfyUI detects as Stable Diffusion 3, of 4 blocks and 9 M parameters.

It draws the same pictures for the same captions, from the same autoencoder and text encoder, and predicts a flow's velocity.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .drawing import caption, random_scene
from .text_encoder import WIDTH, encode_captions
from .training import Schedule, fast_precision, initialise, train
from .unet import DRAWINGS, encode_drawings, every_caption

if TYPE_CHECKING:
    from comfy.ldm.modules.diffusionmodules.mmdit import OpenAISignatureMMDITWrapper
    from comfy.taesd.taesd import TAESD

DEPTH, GRID = 4, 8
LATENTS, USED = 16, 4
"""SD3 has sixteen latent channels, of which the autoencoder fills four; the others are always zero."""
TEXT_WIDTH, POOLED_WIDTH = 4096, 2048
"""SD3 pads CLIP-L's `WIDTH` values with zeros to these."""
SCHEDULE = Schedule(steps=6000, batch=64, learning_rate=1e-3, ema=0.9985)
SHIFT = 3.0
"""Of SD3's noise levels, as ComfyUI samples them."""


def new_mmdit(seed: int = 31) -> OpenAISignatureMMDITWrapper:
    """ComfyUI's own MMDiT module in the playground's size, with random weights and silent output layers.

    It reads the text at CLIP-L's width; `widened` adds the columns that meet SD3's zeros.
    """
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.mmdit import OpenAISignatureMMDITWrapper, get_2d_sincos_pos_embed

    hidden = 64 * DEPTH
    module = OpenAISignatureMMDITWrapper(
        input_size=None,  # pyright: ignore[reportArgumentType] - ComfyUI declares an int and takes None
        patch_size=2,
        in_channels=LATENTS,
        out_channels=LATENTS,
        depth=DEPTH,
        adm_in_channels=WIDTH,
        context_embedder_config={
            "target": "torch.nn.Linear",
            "params": {"in_features": WIDTH, "out_features": hidden},
        },
        num_patches=GRID * GRID,
        pos_embed_max_size=GRID,
        qk_norm="rms",
        dtype=torch.float32,
        operations=comfy.ops.disable_weight_init,
    )
    initialise(module, seed)
    module.get_buffer("pos_embed").copy_(torch.from_numpy(get_2d_sincos_pos_embed(hidden, GRID))[None])
    for name, weight in module.named_parameters():
        if name.endswith(("ln_q.weight", "ln_k.weight")):
            nn.init.ones_(weight)
        # every block starts as the identity, and the prediction at zero (arXiv 2212.09748, section 3.2)
        elif ".adaLN_modulation." in name or name.startswith("final_layer.linear"):
            nn.init.zeros_(weight)
    return module


def widened(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights with the text columns of SD3's full width."""
    widths = {"context_embedder.weight": TEXT_WIDTH, "y_embedder.mlp.0.weight": POOLED_WIDTH}
    return {
        name: nn.functional.pad(value, (0, widths[name] - value.shape[1])) if name in widths else value
        for name, value in state.items()
    }


def widened_autoencoder(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The autoencoder's weights with SD3's sixteen channels, and scaled so that SD3's latent format gives what SD1.5's
    gives in the first four of them, and zero in the others."""
    from comfy.latent_formats import SD3, SD15

    flow, noise = SD3(), SD15()
    ratio = flow.scale_factor / noise.scale_factor
    scale, shift = state["vae_scale"].float() * ratio, flow.shift_factor + state["vae_shift"].float() / ratio
    more = LATENTS - USED
    last, first = _outer_convolutions(state)
    silent = torch.full((more,), float((flow.shift_factor - shift) * scale))
    return state | {
        "vae_scale": scale,
        "vae_shift": shift,
        f"{last}.weight": nn.functional.pad(state[f"{last}.weight"], (0, 0, 0, 0, 0, 0, 0, more)),
        f"{last}.bias": torch.cat([state[f"{last}.bias"].float(), silent]),
        f"{first}.weight": nn.functional.pad(state[f"{first}.weight"], (0, 0, 0, 0, 0, more)),
    }


def _outer_convolutions(state: dict[str, Tensor]) -> tuple[str, str]:
    """Names of the encoder's last and the decoder's first convolution."""
    places = [int(name.split(".")[1]) for name in state if name.startswith("taesd_encoder.")]
    return f"taesd_encoder.{max(places)}", "taesd_decoder.1"


def velocity_loss(mmdit: nn.Module, latents: Tensor, text: tuple[Tensor, Tensor], generator: torch.Generator) -> Tensor:
    """Error of the velocity `noise - latents` (flow matching, arXiv 2403.03206, section 3.1), at noise levels spread as
    the sampler's are."""
    uniform = torch.rand(latents.shape[0], generator=generator)
    sigma = SHIFT * uniform / (1 + (SHIFT - 1) * uniform)
    noise = torch.randn(latents.shape, generator=generator)
    noisy = torch.lerp(latents, noise, sigma[:, None, None, None])
    states, pooled = text
    with fast_precision():
        predicted = mmdit(noisy, 1000 * sigma, context=states, y=pooled).float()
    return (predicted - (noise - latents)).square().mean()


def train_mmdit(
    folder: Path, autoencoder: TAESD, text_weights: dict[str, Tensor], schedule: Schedule = SCHEDULE
) -> nn.Module:
    """Train (or go on training) the MMDiT on the drawings and captions of the UNet."""
    generator = torch.Generator().manual_seed(22)
    scene = random_scene(DRAWINGS, generator)
    latents = nn.functional.pad(encode_drawings(autoencoder, scene), (0, 0, 0, 0, 0, LATENTS - USED))
    captions = every_caption()
    row_of = {text: row for row, text in enumerate(captions)}
    states, pooled = encode_captions(captions, text_weights, normed=False)
    mmdit = new_mmdit()

    def loss(batch: int, generator: torch.Generator) -> Tensor:
        rows = torch.randint(DRAWINGS, (batch,), generator=generator)
        texts = [row_of[caption(scene, int(row), generator)] for row in rows]
        return velocity_loss(mmdit, latents[rows], (states[texts].float(), pooled[texts].float()), generator)

    return train("mmdit", mmdit, loss, schedule, seed=33, checkpoint=folder / "mmdit.pt")
