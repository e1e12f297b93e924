"""Finds the rows of the negative prompt in a call of the network, by the names of the guider.

ComfyUI numbers the prompts of a call in the order in which they are asked for, and every guider and patch of guidance has
an order of its own ([positive, negative], [negative, middle, positive], the negative alone ...), so the number says nothing.
The guider knows, because it holds its prompts by name: a prompt is negative if one of its ids is found among the
guider's negative prompts and nowhere else. Copies for areas, masks, ranges of time and context windows keep the id, also
that of the other prompt which lends its area; such an id tells nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

NAMES = ("negative", "empty_negative_prompt")
"""The names in ComfyUI's guiders of the prompts that they lead away from. The `middle` one of dual guidance is none: it leads
away or towards, as the two scales are."""

_IDS, _PLACES = "erasure.negative_ids", "erasure.negative_places"


def follow_the_guider(model: Any) -> None:
    """Let every call of this MODEL's network know what `positive_rows` needs."""
    for kind, wrapper in ((WrappersMP.PREDICT_NOISE, _note_ids), (WrappersMP.CALC_COND_BATCH, _note_places)):
        if not model.get_wrappers(kind, _IDS):
            model.add_wrapper_with_key(kind, _IDS, wrapper)


def positive_rows(options: Mapping[str, Any], rows: int, device: torch.device) -> Tensor:
    """(rows,) bool: False for the rows of the negative prompt. All True where that is unknown: the call comes from no
    guider, or from one without names, or somebody has split the batch on the way."""
    places, size = options.get(_PLACES, ((), 0))
    asked = options.get("cond_or_uncond", ())
    if len(asked) * size != rows:
        return torch.ones(rows, dtype=torch.bool, device=device)
    return torch.tensor([place not in places for place in asked], device=device).repeat_interleave(size)


def _ids(prompt: Any) -> set:
    """The ids of a prompt's conditions; none of what is no list of such, for guiders keep what they like."""
    conds = prompt if isinstance(prompt, list) else []
    return {cond["uuid"] for cond in conds if isinstance(cond, Mapping) and "uuid" in cond}


def _note_ids(
    executor: Any, x: Tensor, timestep: Tensor, model_options: dict[str, Any], seed: int | None = None
) -> Tensor:
    """Around a guider's prediction."""
    ids: dict[bool, set] = {True: set(), False: set()}
    for name, prompt in getattr(executor.class_obj, "conds", {}).items():
        ids[name in NAMES] |= _ids(prompt)
    return executor(x, timestep, _with(model_options, _IDS, frozenset(ids[True] - ids[False])), seed)


def _note_places(
    executor: Any, model: Any, conds: list, x: Tensor, timestep: Tensor, model_options: dict[str, Any]
) -> list[Tensor]:
    """Around the calls of the network for some prompts, each a list of conditions or None."""
    ids = model_options.get("transformer_options", {}).get(_IDS, frozenset())
    places = tuple(place for place, prompt in enumerate(conds) if not ids.isdisjoint(_ids(prompt)))
    return executor(model, conds, x, timestep, _with(model_options, _PLACES, (places, len(x))))


def _with(model_options: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    """These options with one more for the network; the caller's own stay as they are, for it makes other calls with them."""
    return {**model_options, "transformer_options": {**model_options.get("transformer_options", {}), name: value}}
