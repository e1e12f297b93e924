"""How good the picture book draws: ComfyUI's own loader and sampler, and what the judges say of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from devtools.hosting.errors import ToolError

from .. import sampling
from .judge import Accuracy, accuracy
from .sources import STYLES
from .things import SIDE
from .words import TEMPLATES, caption


@torch.inference_mode()
def draw(checkpoint: Path, prompts: Sequence[str], seed: int) -> Tensor:
    """One picture a prompt, (n, 3, 64, 64) in [0, 1], as Load Checkpoint and KSampler draw it."""
    import comfy.sd

    model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(str(checkpoint))
    if clip is None or vae is None:
        raise ToolError(f"{checkpoint} has no text encoder or no autoencoder; build it again (picture_book.build)")
    noise = torch.randn(len(prompts), 4, SIDE // 8, SIDE // 8, generator=torch.Generator().manual_seed(seed))

    def encode(texts: Sequence[str]) -> sampling.Conditioning:
        parts = [clip.encode_from_tokens_scheduled(clip.tokenize(text), show_pbar=False)[0] for text in texts]
        states, pooled = torch.cat([part[0] for part in parts]), torch.cat([part[1]["pooled_output"] for part in parts])
        return [[states, {"pooled_output": pooled}]]

    return sampling.draw(model, vae, encode, prompts, noise, seed)


def questions(names: Sequence[str], n: int) -> tuple[list[str], Tensor, Tensor]:
    """n prompts that go through names, styles and templates in turn, with the thing (n,) and the style (n,) of each; -1
    where none is named, which is so in every fourth."""
    rows = torch.arange(n)
    thing, style = rows % len(names), rows // len(names) % (len(STYLES) + 1)
    style = torch.where(style < len(STYLES), style, -1)
    prompts = [
        caption(TEMPLATES[int(t) % len(TEMPLATES)], names[int(t)], STYLES[int(s)].word if s >= 0 else "")
        for t, s in zip(thing, style, strict=True)
    ]
    return prompts, thing, style


def judged(
    checkpoint: Path, judges: Mapping[str, nn.Module], names: Sequence[str], n: int, seed: int = 99
) -> tuple[dict[str, Accuracy], Tensor]:
    """How many of n pictures of a checkpoint show the thing, and how many the style, that they were asked for; and the
    pictures (n, 3, 64, 64)."""
    prompts, thing, style = questions(names, n)
    pictures = draw(checkpoint, prompts, seed)
    named = style >= 0
    return {
        "thing": accuracy(judges["thing"], pictures, thing),
        "style": accuracy(judges["style"], pictures[named], style[named]),
    }, pictures
