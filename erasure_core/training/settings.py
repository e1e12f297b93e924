"""Settings that several methods share, each defined once. Call these in a class body, which decides the order."""

from __future__ import annotations

from typing import Any

from ..guidance import WEIGHTINGS
from ..layers import GROUPS
from ..memory.checkpointing import CHECKPOINTING
from ..method import setting


def layer_group(default: str = "cross_attention_kv") -> Any:
    """What a trained method may change."""
    return setting(
        default,
        "Which layers may change: those that read the text (cross_attention_kv), more, or all others (non_cross_attention), "
        "which also act where the concept is only implied. See Layer groups in the help.",
        choices=tuple(GROUPS),
    )


def edit_rank(default: int = 8) -> Any:
    """Rank of a trained method's deltas."""
    return setting(
        default,
        "Rank of the edit for each concept. 0 trains full matrices: a larger file, seldom a better one.",
        minimum=0,
        maximum=256,
    )


def optimiser_steps(default: int = 100) -> Any:
    """How long a trained method learns."""
    return setting(
        default,
        "Optimiser steps for each concept. More erase more thoroughly and take longer.",
        minimum=1,
        maximum=10000,
    )


def step_size(default: float = 1e-3) -> Any:
    """How far a trained method goes in one step."""
    return setting(
        default,
        "Step size of Adam. Lower it if pictures of other concepts suffer.",
        minimum=1e-7,
        maximum=0.1,
        step=1e-5,
    )


def eta(default: float, help: str = "How far past the anchor the target is pushed (eta).") -> Any:
    """Negative guidance of an erasure, the field's eta."""
    return setting(default, help, minimum=0.0, maximum=10.0, step=0.1)


def retaining(
    default: float = 1.0, help: str = "Weight of keeping the retain lines, if there are any.", step: float = 0.1
) -> Any:
    """Weight of the loss term that preserves, the field's lambda."""
    return setting(default, help, minimum=0.0, maximum=100.0, step=step)


def sampling_scale() -> Any:
    """Guidance of the sampling runs that a method learns on."""
    return setting(
        3.0,
        "Guidance scale of the frozen model's sampling runs that give the noisy samples.",
        minimum=1.0,
        maximum=20.0,
        step=0.5,
        advanced=True,
    )


def sampling_length(default: int = 16) -> Any:
    """Length of those runs."""
    return setting(
        default, "Sampling steps of those runs; each gives a noisy sample.", minimum=2, maximum=200, advanced=True
    )


def target_trajectories() -> Any:
    """Number of those runs."""
    return setting(
        24,
        "Sampling runs for each target, each with the target in another sentence ('a picture of a ...', 'a small ...').",
        minimum=1,
        maximum=256,
        advanced=True,
    )


def noise_level_weighting(default: str = "x0") -> Any:
    """How the squared error counts at each noise level."""
    return setting(
        default,
        "How noise levels are weighted. eps compares predictions, as most papers write it; x0 compares pictures, which "
        "weights high noise more, where shape and colour are decided; balanced is half way between.",
        choices=WEIGHTINGS,
        advanced=True,
    )


def block_checkpointing() -> Any:
    """Whether the backward pass computes the blocks of the network again."""
    return setting(
        "auto",
        "Gradient checkpointing: the same result in a fraction of the memory, for one more forward pass in each optimiser "
        "step. auto uses it when memory is short.",
        choices=CHECKPOINTING,
        advanced=True,
    )
