"""Checks a judge's folder before its weights are read: every fault is named, none waits for a verdict."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

ACCURACY_FILE = "accuracy.json"
UNNAMED = "LABEL_"
"""The names that the library transformers gives to labels without one."""


class JudgeFault(ValueError):
    """A fault of a judge's folder, and what to do; the caller adds the folder's name."""


@dataclass(frozen=True)
class Accuracy:
    """How often a judge was right, of n pictures whose content is known; `on` says which."""

    right: int
    n: int
    on: str


def config_of(folder: Path) -> dict[str, Any]:
    """config.json. Raises JudgeFault if it holds no fields, or is of a timm model and timm is not installed."""
    config = _fields(folder / "config.json")
    if is_timm(config) and importlib.util.find_spec("timm") is None:
        raise JudgeFault(
            "it is a timm model (config.json has an architecture and no model_type), and the library timm is not installed; "
            "install it with 'pip install timm' in ComfyUI's Python, or take a folder in transformers' own format"
        )
    return config


def is_timm(config: Mapping[str, Any]) -> bool:
    """True for the configuration of a timm model, which transformers reads with timm's help."""
    return config.get("model_type", "timm_wrapper") == "timm_wrapper" and "architecture" in config


def check_sight(folder: Path) -> None:
    """Raise JudgeFault if pictures of any size would go into the network as they are."""
    path = folder / "preprocessor_config.json"
    if path.is_file() and _fields(path).get("do_resize") is False:
        raise JudgeFault(
            "preprocessor_config.json says do_resize: false, so that pictures would not be brought to the size that it was "
            "trained at; write do_resize: true and that size"
        )


def check_question(config: Mapping[str, Any]) -> None:
    """Raise JudgeFault if the classifier gives several labels at once: a judge's labels exclude one another."""
    if config.get("problem_type") == "multi_label_classification":
        raise JudgeFault(
            "it gives several labels at once (problem_type: multi_label_classification), and a judge chooses one; take a "
            "classifier whose labels exclude one another"
        )


def labels_of(id2label: object) -> tuple[str, ...]:
    """The labels in the order of the network's outputs, from the map of their numbers, counted from 0.

    Raises JudgeFault if it is no such map, leaves a number out, or tells nothing apart.
    """
    if not isinstance(id2label, Mapping):
        fault = "is missing" if id2label is None else f"is a {type(id2label).__name__}"
        raise JudgeFault(f'the label map id2label in config.json {fault}; write {{"0": first label, "1": second, ...}}')
    numbers = {int(key): label for key, label in id2label.items() if str(key).isdecimal()}
    lacking = [number for number in range(len(id2label)) if number not in numbers]
    if lacking:
        counted = ": it counts from 1" if lacking == [0] and len(id2label) in numbers else ""
        raise JudgeFault(
            f"the label map id2label in config.json has {len(id2label)} labels and none with the number {lacking[0]}{counted}; "
            f"number them 0 to {len(id2label) - 1} in the order of the network's outputs"
        )
    labels = tuple(numbers[number] for number in range(len(numbers)))

    # a whole map can still tell nothing apart
    if not all(isinstance(label, str) and label.strip() for label in labels):
        raise JudgeFault("a label of id2label in config.json is empty or no text; write what each output means")
    if len(labels) < 2:
        raise JudgeFault(
            f"it has {'the one label ' + repr(labels[0]) if labels else 'no label'}, so that every picture would be judged "
            "alike; take a classifier with at least two labels"
        )
    if all(label == f"{UNNAMED}{number}" for number, label in enumerate(labels)):
        raise JudgeFault(
            f"its labels are called {labels[0]}, {labels[1]}...; write into id2label in config.json what they mean"
        )
    return labels


def check_weights(network: nn.Module, info: Mapping[str, Any]) -> None:
    """Raise JudgeFault if tensors of the file do not fit, weights were left at random for lack of them, or are not finite."""
    for key, *shapes in info["mismatched_keys"]:
        raise JudgeFault(
            f"the tensor {key!r} of model.safetensors is {' x '.join(map(str, shapes[0]))}, and config.json asks for "
            f"{' x '.join(map(str, shapes[1]))}; make id2label fit the network's outputs, or get the folder again"
        )
    lacking = sorted(info["missing_keys"])
    if lacking:
        raise JudgeFault(
            f"model.safetensors lacks {len(lacking)} tensors that its config.json asks for, the first {lacking[0]!r}, which "
            "would stay random; take the folder of a finished model with its head"
        )
    for key, tensor in network.state_dict().items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise JudgeFault(f"the tensor {key!r} of model.safetensors is not finite; get the file again")


@torch.no_grad()
def check_answer(score: Callable[[Tensor], Tensor], labels: int) -> None:
    """Show the judge a gray picture. Raise JudgeFault unless it answers with one finite score a label."""
    answer = score(torch.full((1, 48, 64, 3), 0.5))
    if answer.shape != (1, labels) or not bool(answer.isfinite().all()):
        raise JudgeFault(
            f"to a gray picture it answers {answer.flatten()[:4].tolist()} in the shape {tuple(answer.shape)}, and should give "
            f"one finite score to each of its {labels} labels; make id2label in config.json fit the network"
        )


def accuracy_of(folder: Path) -> Accuracy | None:
    """The accuracy that the folder states, if any. Raises JudgeFault if that is no share of pictures."""
    path = folder / ACCURACY_FILE
    if not path.is_file():
        return None
    fields = _fields(path)
    right, n, on = (fields.get(key) for key in ("right", "n", "on"))
    known = set(fields) == {"right", "n", "on"}
    if known and isinstance(on, str) and _is_whole(right) and _is_whole(n) and n >= 1 and 0 <= right <= n:
        return Accuracy(right, n, on)
    raise JudgeFault(
        f"{ACCURACY_FILE} says {json.dumps(fields)[:120]}, which is no share of pictures; write for example "
        '{"right": 198, "n": 200, "on": "photos of my own"}, or remove the file'
    )


def _is_whole(number: Any) -> TypeGuard[int]:
    return isinstance(number, int) and not isinstance(number, bool)


def _fields(path: Path) -> dict[str, Any]:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise JudgeFault(f"{path.name} is no JSON file ({error}); get the folder again") from error
    if not isinstance(fields, dict):
        raise JudgeFault(f"{path.name} holds a {type(fields).__name__} and no fields; get the folder again")
    return fields
