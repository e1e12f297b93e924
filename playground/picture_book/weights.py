"""What the repository carries of the picture book: learned weights, and which things they know."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import load_file, save_file
from torch import Tensor

from ..weights import store_judge, store_network, stored, with_stored
from .judge import FACTORS, Accuracy, labels, new_judge
from .things import Thing

if TYPE_CHECKING:
    from transformers import ResNetForImageClassification

FOLDER = Path(__file__).parent / "weights"
__all__ = ["FOLDER", "store_judge", "store_network"]  # the latter two as the shapes' own, with this folder given
NETWORKS = ("unet", "autoencoder")


def is_complete(folder: Path = FOLDER) -> bool:
    """Whether every stage of the training has left its weights."""
    names = (*NETWORKS, "words", *(f"judge_{factor}" for factor in FACTORS))
    return all((folder / f"{name}.safetensors").is_file() for name in names)


def store_things(things: Sequence[Thing], folder: Path = FOLDER) -> None:
    """Write names, groups and subgroups, one thing a line."""
    folder.mkdir(exist_ok=True)
    rows = ",\n".join(json.dumps(asdict(thing)) for thing in things)
    (folder / "things.json").write_text(f"[\n{rows}\n]\n", encoding="utf-8")


def stored_things(folder: Path = FOLDER) -> list[Thing]:
    """The things that the stored weights know, in the order of the judge's labels."""
    return [Thing(**row) for row in json.loads((folder / "things.json").read_text(encoding="utf-8"))]


def store_words(tokens: Tensor, rows: Tensor, folder: Path = FOLDER) -> None:
    """Write the embeddings `rows` (m, 768) of `tokens` (m,) in half precision."""
    folder.mkdir(exist_ok=True)
    save_file({"tokens": tokens.int(), "rows": rows.detach().half().contiguous()}, folder / "words.safetensors")


def stored_words(folder: Path = FOLDER) -> tuple[Tensor, Tensor]:
    """What `store_words` wrote."""
    state = load_file(folder / "words.safetensors")
    return state["tokens"].long(), state["rows"]


def store_accuracy(measured: dict[str, dict[str, Accuracy]], folder: Path = FOLDER) -> None:
    """Write what the judges of each factor got right, by what they were shown."""
    rows = {factor: {on: asdict(found) for on, found in rows.items()} for factor, rows in measured.items()}
    (folder / "accuracy.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def stored_accuracy(folder: Path = FOLDER) -> dict[str, dict[str, Accuracy]]:
    """What `store_accuracy` wrote."""
    rows = json.loads((folder / "accuracy.json").read_text(encoding="utf-8"))
    return {factor: {on: Accuracy(**found) for on, found in of.items()} for factor, of in rows.items()}


def stored_judges(folder: Path = FOLDER) -> dict[str, ResNetForImageClassification]:
    """The judges of thing and style, ready to use."""
    things = stored_things(folder)
    return {factor: with_stored(new_judge(labels(factor, things)), factor, folder) for factor in FACTORS}


def checkpoint_parts(folder: Path = FOLDER) -> dict[str, dict[str, Tensor]]:
    """All weights of the checkpoint, by the prefix that they have in it."""
    from .text import seeded_weights, with_rows

    return {
        "model.diffusion_model.": stored("unet", folder),
        "first_stage_model.": stored("autoencoder", folder),
        "cond_stage_model.transformer.text_model.": with_rows(seeded_weights(), *stored_words(folder)),
    }
