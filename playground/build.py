"""Expand the repository's weights into what ComfyUI loads: a Stable Diffusion 1.5 checkpoint, and the judge."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import save_file
from torch import Tensor

from devtools.hosting.inprocess import load_comfy

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def build_checkpoint(path: Path, unet: dict[str, Tensor] | None = None) -> None:
    """Write the checkpoint that stock Load Checkpoint detects as SD1.5, with another UNet's weights if they are given.

    Takes seconds; the text encoder comes from its seed.
    """
    from .text_encoder import text_encoder_weights, tokenizer_ids
    from .weights import stored

    parts = {
        "model.diffusion_model.": unet or stored("unet"),
        "first_stage_model.": stored("autoencoder"),
        "cond_stage_model.transformer.text_model.": text_encoder_weights(tokenizer_ids()),
    }
    write_checkpoint(path, parts)


def build_flow_checkpoint(path: Path, weights: dict[str, Tensor] | None = None) -> None:
    """Write the checkpoint that stock Load Checkpoint detects as SD3, with CLIP-L as its only text encoder, from the MMDiT's
    stored weights or other ones."""
    from .mmdit import widened, widened_autoencoder
    from .text_encoder import text_encoder_weights, tokenizer_ids
    from .weights import stored

    parts = {
        "model.diffusion_model.": widened(weights or stored("mmdit")),
        "first_stage_model.": widened_autoencoder(stored("autoencoder")),
        "text_encoders.clip_l.transformer.text_model.": text_encoder_weights(tokenizer_ids()),
    }
    write_checkpoint(path, parts)


def write_checkpoint(path: Path, parts: dict[str, dict[str, Tensor]]) -> None:
    """Write the weights of every part under its prefix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({prefix + k: v.contiguous() for prefix, part in parts.items() for k, v in part.items()}, path)


FRESH = 1000
"""Drawings on which each judge is measured when it is written."""


def build_judge(folder: Path) -> None:
    """Write one transformers image classifier a factor: `<folder>/shape`, `<folder>/colour`, `<folder>/fill`, each with
    its accuracy on fresh drawings beside it."""
    import torch

    from .drawing import draw, random_scene
    from .judge import FACTORS, labels_of, verdicts
    from .weights import stored_judge

    scene = random_scene(FRESH, torch.Generator().manual_seed(2024))
    drawings = draw(scene)
    for factor in FACTORS:
        judge = stored_judge(factor)
        right = int((verdicts(judge, drawings) == labels_of(scene, factor)).sum())
        write_judge(folder / factor, judge, {"right": right, "n": FRESH, "on": "fresh drawings"})


def write_judge(folder: Path, judge: PreTrainedModel, accuracy: dict[str, int | str]) -> None:
    """Write one judge as a transformers image classifier of 64x64 pictures, with its accuracy beside it: how many of `n`
    pictures it got `right`, and what they are."""
    from .drawing import SIZE

    preprocessing = {
        "image_processor_type": "ConvNextImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": SIZE},
        "crop_pct": 1.0,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    judge.save_pretrained(folder)
    (folder / "accuracy.json").write_text(json.dumps(accuracy), encoding="utf-8")
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing, indent=2), encoding="utf-8")


def main() -> None:
    """Build what the arguments name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="checkpoint file to write")
    parser.add_argument("--flow", type=Path, help="checkpoint file of the flow form to write")
    parser.add_argument("--judge", type=Path, help="folder to write the judge to")
    arguments = parser.parse_args()
    load_comfy()
    build_checkpoint(arguments.out)
    if arguments.flow:
        build_flow_checkpoint(arguments.flow)
    if arguments.judge:
        build_judge(arguments.judge)


if __name__ == "__main__":
    main()
