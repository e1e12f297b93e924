"""The text encoder of playground and picture book in a sixth of its time."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def unchanged(states: Tensor, *_: Any, **__: Any) -> Tensor:
    """What a layer makes of the states that adds zero to them."""
    return states


def skip_idle_layers(clip: Any) -> int:
    """Let the layers of ComfyUI's CLIP-L that add zero pass their input through, which changes no bit of any text; returns
    how many. In both worlds ten of twelve do. All weights stay where they are."""
    layers = clip.cond_stage_model.clip_l.transformer.text_model.encoder.layers
    ends = [(layer, [layer.self_attn.out_proj, layer.mlp.fc2]) for layer in layers]
    idle = [layer for layer, parts in ends if not any(p.weight.any() or p.bias.any() for p in parts)]
    for layer in idle:
        layer.forward = unchanged
    return len(idle)
