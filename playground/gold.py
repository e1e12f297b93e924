"""The gold model: a UNet trained like the playground's in a world without one shape, which no edit can be better than.

What an attack draws with it, it draws itself or the judge imagines: the floor of every red-team table. It is too large to be
shipped beside the playground, and goes into the cache.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from playground.weights import gold_checkpoint

from .build import build_checkpoint
from .unet import SCHEDULE, train_unet
from .weights import pack, stored_autoencoder, unpack


def train_gold(folder: Path, text_weights: dict[str, Tensor], without: str) -> Path:
    """Train (or go on training) the UNet on the shipped autoencoder's latents, without the shape in pictures or captions;
    writes the checkpoint, in the playground's layout and precision, and gives its path."""
    unet = train_unet(folder, stored_autoencoder(), text_weights, SCHEDULE, without)
    path = gold_checkpoint(without)
    build_checkpoint(path, unpack(pack(unet.state_dict())))
    return path
