"""Judges: image classifiers that say what a picture shows. The only file that knows the library `transformers`.

A judge is a folder in transformers format: an image classifier with a label map, or a CLIP or SigLIP model, which chooses
among whatever words it is given. A folder of several classifiers judges several factors of one picture (shape and colour).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

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
from .labels import meaning, said_in

ZERO_SHOT = ("clip", "siglip", "siglip2")
TOP = 5
AT_ONCE = 32
SENTENCE = "a photo of {}"


@dataclass(frozen=True)
class Factor:
    """One question that a judge answers. `score` gives (n, labels) for images (n, height, width, 3) in [0, 1]."""

    name: str
    labels: tuple[str, ...]
    score: Callable[[Tensor], Tensor]
    accuracy: Accuracy | None = None

    def label_of(self, concept: str) -> str | None:
        """The label that means `concept`: the one that is this word, else the first that lists it among several with
        commas, whatever the case."""
        found = meaning(self.labels, concept)
        return found[1] if found else None

    def others(self, concept: str) -> list[str]:
        """What else it may answer, by the first name of each label."""
        own = self.label_of(concept)
        return [label.split(",")[0].strip() for label in self.labels if label != own]

    def said_in(self, text: str) -> str | None:
        """The label that a prompt says as whole words, the longest name if it says several."""
        return said_in(self.labels, text)


@dataclass(frozen=True)
class ConceptJudge:
    """A judge of one or more factors. `labelled` must be asked before a zero-shot judge is used."""

    name: str
    factors: tuple[Factor, ...]
    open: Callable[[Sequence[str]], Factor] | None = None

    def labelled(self, concepts: Sequence[str], more: Sequence[str] = ()) -> ConceptJudge:
        """A judge that knows these concepts: the judge itself, or a zero-shot judge that chooses among them and `more`,
        which a classifier need not know.

        Raises ValueError if a classifier has no label for one, or a zero-shot judge gets fewer than two.
        """
        wanted = list(dict.fromkeys(concept for concept in concepts if concept))
        if self.open is not None:
            wanted = list(dict.fromkeys([*wanted, *more]))
            if len(wanted) < 2:
                raise ValueError(
                    f"the zero-shot judge {self.name!r} chooses among the concepts of the prompts, and there is only "
                    f"{wanted!r}; add look_alikes, or retain_prompts with '=> concept'"
                )
            return replace(self, factors=(self.open(wanted),), open=None)
        for concept in wanted:
            if self.factor_of(concept) is None:
                known = [label for factor in self.factors for label in factor.labels]
                shown = ", ".join(known[:20]) + (f" and {len(known) - 20} more" if len(known) > 20 else "")
                raise ValueError(
                    f"the judge {self.name!r} has no label for {concept!r}. Write 'prompt => label' with one that it has "
                    f"({shown}), or choose a judge that knows the concept"
                )
        return self

    def factor_of(self, concept: str) -> Factor | None:
        """The factor with the label that means `concept` best, the first of several."""
        found = [(known[0], factor) for factor in self.factors if (known := meaning(factor.labels, concept))]
        return min(found, key=lambda one: one[0])[1] if found else None

    @torch.no_grad()
    def seen(self, pictures: Tensor, k: int = TOP) -> list[dict[str, tuple[str, ...]]]:
        """What each picture (n, height, width, 3) shows: by factor, its k most likely labels, the likeliest first."""
        found: list[dict[str, tuple[str, ...]]] = [{} for _ in range(len(pictures))]
        for factor in self.factors:
            best = _scores(factor, pictures).topk(min(k, len(factor.labels)), dim=1).indices.tolist()
            for verdict, indices in zip(found, best, strict=True):
                verdict[factor.name] = tuple(factor.labels[index] for index in indices)
        return found

    @torch.no_grad()
    def confidence(self, pictures: Tensor, concept: str) -> Tensor:
        """How sure the judge is that each picture (n, height, width, 3) shows the concept, (n,): the softmax of its scores.
        It must have a label for it (`labelled`)."""
        factor = self.factor_of(concept)
        return _scores(factor, pictures).softmax(1)[:, factor.labels.index(factor.label_of(concept))]


def _scores(factor: Factor, pictures: Tensor) -> Tensor:
    return torch.cat([factor.score(part) for part in pictures.split(AT_ONCE)])


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
        parts = [load_judge(part, part.name, device) for part in _parts(folder)]
        if any(part.open for part in parts):
            raise ValueError(
                f"{folder} mixes judges of several kinds; choose one of {', '.join(p.name for p in parts)}"
            )
        return ConceptJudge(name, tuple(factor for part in parts for factor in part.factors))
    try:
        config = config_of(folder)
        check_sight(folder)
        if config.get("model_type") in ZERO_SHOT:
            return ConceptJudge(name, (), _zero_shot(folder, config["model_type"], device))
        return ConceptJudge(name, (_classifier(folder, config, device),))
    except JudgeFault as error:
        raise ValueError(f"the judge {name!r} in {folder} cannot be used: {error}") from error
    except torch.OutOfMemoryError:
        raise
    except ImportError as error:
        raise ValueError(
            f"the judge {name!r} in {folder} needs a library that is not installed: {error}. Install it with pip in ComfyUI's "
            f"Python"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        raise ValueError(
            f"the judge {name!r} in {folder} cannot be read: {error}. It needs config.json, model.safetensors and "
            f"preprocessor_config.json of an image classifier, CLIP or SigLIP (these two also their tokenizer's files); get "
            f"the folder again"
        ) from error


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
