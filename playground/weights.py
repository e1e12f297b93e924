"""What the repository carries of the playground: learned weights in eight bits with a scale per row, about 32 MB."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from devtools.hosting.install import cache

if TYPE_CHECKING:
    from comfy.taesd.taesd import TAESD
    from transformers import ResNetForImageClassification

FOLDER = Path(__file__).parent / "weights"
_SCALE = ".row_scale"


def pack(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Matrices and kernels as int8 with one float32 scale per row, everything else as float16."""
    packed = {}
    for name, value in state.items():
        value = value.detach().float().contiguous()
        if value.ndim < 2:
            packed[name] = value.half()
            continue
        scale = value.flatten(1).abs().amax(1).clamp(min=1e-12) / 127
        packed[name] = (value / scale.reshape(-1, *[1] * (value.ndim - 1))).round().to(torch.int8)
        packed[name + _SCALE] = scale
    return packed


def unpack(packed: dict[str, Tensor]) -> dict[str, Tensor]:
    """The float16 weights that `pack` stored."""
    state = {}
    for name, value in packed.items():
        if name.endswith(_SCALE):
            continue
        scale = packed.get(name + _SCALE)
        if scale is not None:
            value = value.float() * scale.reshape(-1, *[1] * (value.ndim - 1))
        state[name] = value.half()
    return state


Judge = TypeVar("Judge", bound=nn.Module)


def store_network(name: str, network: nn.Module, folder: Path = FOLDER) -> None:
    """Write one network, packed."""
    folder.mkdir(exist_ok=True)
    save_file(pack(network.state_dict()), folder / f"{name}.safetensors")


def store_judge(factor: str, judge: nn.Module, folder: Path = FOLDER) -> None:
    """Write one judge in half precision."""
    folder.mkdir(exist_ok=True)
    half = {name: value.half() if value.is_floating_point() else value for name, value in judge.state_dict().items()}
    save_file(half, folder / f"judge_{factor}.safetensors")


def store(unet: nn.Module, autoencoder: nn.Module, judges: Mapping[str, nn.Module]) -> None:
    """Write the repository's weights from trained modules."""
    store_network("unet", unet)
    store_network("autoencoder", autoencoder)
    for factor, judge in judges.items():
        store_judge(factor, judge)


def stored(name: str, folder: Path = FOLDER) -> dict[str, Tensor]:
    """The float16 weights of `unet`, `autoencoder` or `mmdit`."""
    return unpack(load_file(folder / f"{name}.safetensors"))


def stored_autoencoder(folder: Path = FOLDER) -> TAESD:
    """The autoencoder, ready to use."""
    from .autoencoder import new_autoencoder

    autoencoder = new_autoencoder()
    autoencoder.load_state_dict({name: value.float() for name, value in stored("autoencoder", folder).items()})
    return autoencoder.eval()


def stored_judge(factor: str) -> ResNetForImageClassification:
    """The judge of `shape`, `colour` or `fill`, ready to use."""
    from .judge import new_judge

    return with_stored(new_judge(factor), factor)


def with_stored(judge: Judge, factor: str, folder: Path = FOLDER) -> Judge:
    """`judge` with what `store_judge` wrote, ready to use."""
    state = load_file(folder / f"judge_{factor}.safetensors")
    judge.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    return judge.eval()


CHECKPOINT = Path("checkpoints", "playground.safetensors")


def gold_checkpoint(without: str) -> Path:
    """Where the model that was trained without a shape lies, if `make playground` has made it on this machine."""
    return cache() / "models" / CHECKPOINT.with_name(f"playground_without_{without}.safetensors")
