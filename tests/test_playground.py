"""The gold model: trained like the playground, in a world without one shape."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open

from devtools import comfyui
from devtools.inprocess import load_comfy
from devtools.playground_files import CHECKPOINT, playground_models
from playground import gold, unet
from playground.drawing import SHAPES, SYNONYMS
from playground.training import Schedule


def layout(path: Path) -> dict[str, list[int]]:
    """The shape of each tensor of a file."""
    with safe_open(path, "pt") as file:
        return {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118


def test_gold_has_the_layout_of_the_playground_and_never_hears_of_its_shape(tmp_path, monkeypatch) -> None:
    load_comfy()
    said: list[str] = []
    caption = unet.caption
    monkeypatch.setattr(unet, "DRAWINGS", 64)
    monkeypatch.setattr(gold, "SCHEDULE", Schedule(steps=4, batch=16, learning_rate=1e-4))
    monkeypatch.setattr(gold, "gold_checkpoint", lambda without: tmp_path / f"{without}.safetensors")
    monkeypatch.setattr(unet, "caption", lambda *given: said.append(caption(*given)) or said[-1])
    # encoding every caption takes most of the time, and is not what this test is about
    monkeypatch.setattr(
        unet, "encode_captions", lambda captions, _: torch.zeros(1, 77, 768).expand(len(captions), -1, -1)
    )
    path = gold.train_gold(tmp_path, {}, "circle")
    assert layout(path) == layout(playground_models(comfyui.ensure()) / CHECKPOINT)
    words = {word for text in said for word in text.split()}
    assert len(said) == 64 and not words & {"circle", SYNONYMS["circle"]}
    assert len(words & set(SHAPES)) >= 4
