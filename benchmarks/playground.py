"""The playground checkpoint in this process: loaded, sampled and judged as ComfyUI would."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from devtools import comfyui
from devtools.inprocess import load_comfy
from devtools.pack import load_pack
from devtools.playground_files import CHECKPOINT, JUDGE, playground_models
from playground.drawing import SIZE
from playground.judge import FACTORS, verdicts

STEPS, GUIDANCE_SCALE, SAMPLER, SCHEDULER = 12, 3.0, "euler", "normal"
BATCH = 48


@dataclass
class Playground:
    """The base model with its text encoder, autoencoder and judges, one a factor."""

    model: Any
    clip: Any
    vae: Any
    judges: dict[str, nn.Module]

    def __post_init__(self) -> None:
        self._texts: dict[str, Tensor] = {}
        self._base_pictures: dict[tuple[str, ...], Tensor] = {}

    def text(self, prompt: str) -> Tensor:
        """Text hidden states (1, 77, 768); encoded once."""
        if prompt not in self._texts:
            tokens = self.clip.tokenize(prompt)
            self._texts[prompt] = self.clip.encode_from_tokens_scheduled(tokens, show_pbar=False)[0][0]
        return self._texts[prompt]

    @torch.inference_mode()
    def draw(self, model: Any, prompts: Sequence[str], seed: int) -> Tensor:
        """One picture a prompt, (n, 3, 64, 64) in [0, 1], by ComfyUI's own sampler; equal seeds mean equal noise."""
        import comfy.sample

        noise = torch.randn((len(prompts), 4, SIZE // 8, SIZE // 8), generator=torch.Generator().manual_seed(seed))
        pictures = []
        for rows in torch.arange(len(prompts)).split(BATCH):
            positive = [[torch.cat([self.text(prompts[int(row)]) for row in rows]), {}]]
            negative = [[self.text(""), {}]]
            with torch.autocast("cpu", torch.bfloat16):
                latents = comfy.sample.sample(
                    model, noise[rows], STEPS, GUIDANCE_SCALE, SAMPLER, SCHEDULER, positive, negative,
                    torch.zeros_like(noise[rows]), disable_pbar=True, seed=seed,
                )  # fmt: skip
                pictures.append(self.vae.decode(latents.float()).movedim(-1, 1).float())
        return torch.cat(pictures)

    def draw_base(self, prompts: Sequence[str], seed: int) -> Tensor:
        """What `draw` gives for the base model; drawn once."""
        key = (str(seed), *prompts)
        if key not in self._base_pictures:
            self._base_pictures[key] = self.draw(self.model, prompts, seed)
        return self._base_pictures[key]

    @torch.inference_mode()
    def judged(self, pictures: Tensor) -> dict[str, list[str]]:
        """What each judge sees in each picture."""
        return {
            factor: [FACTORS[factor][int(i)] for i in verdicts(judge, pictures)]
            for factor, judge in self.judges.items()
        }


def load_playground(models: Path | None = None) -> Playground:
    """Load the playground, building it first if need be."""
    load_comfy()
    load_pack()
    torch.set_flush_denormal(True)
    models = models or playground_models(comfyui.ensure())
    import comfy.sd
    from transformers import AutoModelForImageClassification

    with torch.inference_mode():
        model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(str(models / CHECKPOINT))
    judges = {
        factor: AutoModelForImageClassification.from_pretrained(models / JUDGE / factor).eval() for factor in FACTORS
    }
    return Playground(model, clip, vae, judges)
