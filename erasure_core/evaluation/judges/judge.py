"""Judges: image classifiers that say what a picture shows. The only file that knows the library `transformers`.

A judge is a folder in transformers format: an image classifier with a label map, or a CLIP or SigLIP model, which chooses
among whatever words it is given. A folder of several classifiers judges several factors of one picture (shape and colour).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from .concept_judge import AT_ONCE, ConceptJudge, Factor, Look
from .judge_folder import (
    Accuracy,
    JudgeFault,
    accuracy_of,
    check_answer,
    check_question,
    check_sight,
    check_weights,
    config_of,
    is_timm,
    labels_of,
)

ZERO_SHOT = ("clip", "siglip", "siglip2")
SENTENCE = "a photo of {}"

__all__ = ["AT_ONCE", "Accuracy", "ConceptJudge", "Factor", "Look", "is_judge", "judges_in", "load_judge"]


def is_judge(folder: Path) -> bool:
    """True for a folder in transformers format, or one that holds at least two such folders."""
    return (folder / "config.json").is_file() or len(_parts(folder)) > 1


def _parts(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob("*/config.json"))


def judges_in(root: Path) -> list[str]:
    """Names of the judges under a folder, `/` between their parts; a judge of several factors before its parts."""
    folders = {path.parent for path in root.glob("*/config.json")} | {
        path.parent for path in root.glob("*/*/config.json")
    }
    folders |= {folder.parent for folder in folders if folder.parent != root and is_judge(folder.parent)}
    return sorted(folder.relative_to(root).as_posix() for folder in folders)


def load_judge(folder: Path, name: str, device: torch.device) -> ConceptJudge:
    """Read a judge from its folder; only from there, and only safetensors weights.

    Raises ValueError, naming the folder and what is wrong, if it is not there or cannot be read as a judge.
    """
    if not is_judge(folder):
        raise ValueError(
            f"there is no judge in {folder}: it has no config.json; copy a model in transformers format there"
        )
    if not (folder / "config.json").is_file():
        return _judge_of_several(folder, name, device)

    try:
        config = config_of(folder)
        check_sight(folder)
        if config.get("model_type") in ZERO_SHOT:
            return ConceptJudge(name, (), _zero_shot(folder, config["model_type"], device))
        return ConceptJudge(name, (_classifier(folder, config, device),))
    except JudgeFault as error:
        raise ValueError(f"the judge {name!r} in {folder} cannot be used: {error}") from error
    except torch.OutOfMemoryError:
        raise  # no fault of the folder
    except ImportError as error:
        raise ValueError(
            f"the judge {name!r} in {folder} needs a library that is not installed: {error}. Install it with pip in ComfyUI's "
            f"Python"
        ) from error
    # transformers has no error type of its own: a broken folder ends in any of these
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        raise ValueError(
            f"the judge {name!r} in {folder} cannot be read: {error}. It needs config.json, model.safetensors and "
            f"preprocessor_config.json of an image classifier, CLIP or SigLIP (these two also their tokenizer's files); get "
            f"the folder again"
        ) from error


def _judge_of_several(folder: Path, name: str, device: torch.device) -> ConceptJudge:
    """One judge of the factors of all classifiers in a folder."""
    judges = [load_judge(part, part.name, device) for part in _parts(folder)]
    if any(judge.open for judge in judges):
        raise ValueError(f"{folder} mixes judges of several kinds; choose one of {', '.join(j.name for j in judges)}")
    return ConceptJudge(name, tuple(factor for judge in judges for factor in judge.factors))


def _bytes(pictures: Tensor) -> list[Any]:
    """Pictures as they would be saved, which is how a judge was trained to see them."""
    return list((pictures.clamp(0, 1) * 255).round().byte().cpu().numpy())


def _classifier(folder: Path, config: dict[str, Any], device: torch.device) -> Factor:
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    check_question(config)
    labels = () if is_timm(config) else labels_of(config.get("id2label"))
    accuracy = accuracy_of(folder)
    processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    model = _network(AutoModelForImageClassification, folder, device)
    labels = labels or labels_of(model.config.id2label)

    def score(pictures: Tensor) -> Tensor:
        inputs = processor(images=_bytes(pictures), return_tensors="pt")
        return model(pixel_values=inputs["pixel_values"].to(device, model.dtype)).logits.float().cpu()

    check_answer(score, len(labels))
    return Factor(folder.name, labels, score, accuracy)


def _network(kind: Any, folder: Path, device: torch.device) -> Any:
    """The folder's network with every weight from its file."""
    options = {"local_files_only": True, "use_safetensors": True, "ignore_mismatched_sizes": True}
    network, info = kind.from_pretrained(folder, output_loading_info=True, **options)
    check_weights(network, info)
    return network.to(device).eval()


def _zero_shot(folder: Path, kind: str, device: torch.device) -> Callable[[Sequence[str]], Factor]:
    from transformers import AutoImageProcessor, AutoModel

    accuracy = accuracy_of(folder)
    processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    model = _network(AutoModel, folder, device)
    longest = model.config.text_config.max_position_embeddings
    tokens_of = _clip_tokens(folder, longest) if kind == "clip" else _siglip_tokens(folder, longest)

    def opened(labels: Sequence[str]) -> Factor:
        tokens = tokens_of([SENTENCE.format(label) for label in labels])

        def score(pictures: Tensor) -> Tensor:
            inputs = processor(images=_bytes(pictures), return_tensors="pt")
            return model(**tokens.to(device), **inputs.to(device)).logits_per_image.float().cpu()

        return Factor("label", tuple(labels), score, accuracy)

    return opened


def _clip_tokens(folder: Path, longest: int) -> Callable[[list[str]], Any]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return partial(tokenizer, padding=True, truncation=True, max_length=longest, return_tensors="pt")


def _siglip_tokens(folder: Path, longest: int) -> Callable[[list[str]], Any]:
    """As SigLIP was trained: lower case, always the full length, and no mask over the padding. Read from tokenizer.json,
    because the class that its folder names needs the library protobuf, which ComfyUI does not bring."""
    from transformers import PreTrainedTokenizerFast

    if not (folder / "tokenizer.json").is_file():
        raise OSError("it has no tokenizer.json")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)

    def tokens(texts: list[str]) -> Any:
        given = {"padding": "max_length", "truncation": True, "max_length": longest, "return_tensors": "pt"}
        found = tokenizer([text.lower() for text in texts], **given)
        return type(found)({"input_ids": found["input_ids"]})

    return tokens
