"""The playground checkpoint in this process: loaded, sampled and judged as ComfyUI would."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from devtools.hosting import comfyui
from devtools.hosting.inprocess import load_comfy
from devtools.hosting.pack import load_pack
from playground import sampling
from playground.drawing import SIZE
from playground.judge import FACTORS, top_labels
from playground.picture_book.judge import FACTORS as BOOK_FACTORS
from playground.picture_book.judge import labels as book_labels
from playground.picture_book.weights import stored_things
from playground.weights import CHECKPOINT
from testbed.files import BOOK, BOOK_JUDGE, JUDGE, picture_book_models, playground_models


@dataclass
class Playground:
    """The base model with its text encoder, autoencoder and judges, one a factor, what each judge can answer, and how
    pictures are drawn."""

    model: Any
    clip: Any
    vae: Any
    judges: dict[str, nn.Module]
    labels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    drawn_by: sampling.KSamplerSettings = sampling.EULER

    def __post_init__(self) -> None:
        self._texts: dict[str, tuple[Tensor, Tensor]] = {}
        self._base_pictures: dict[tuple[str, ...], Tensor] = {}

    def encoded(self, prompt: str) -> tuple[Tensor, Tensor]:
        """Text hidden states (1, 77, width) and pooled text (1, width); encoded once."""
        if prompt not in self._texts:
            tokens = self.clip.tokenize(prompt)
            states, more = self.clip.encode_from_tokens_scheduled(tokens, show_pbar=False)[0]
            self._texts[prompt] = states, more["pooled_output"]
        return self._texts[prompt]

    def text(self, prompt: str) -> Tensor:
        """Text hidden states (1, 77, width)."""
        return self.encoded(prompt)[0]

    def conditioning(self, prompts: Sequence[str]) -> list[list[Any]]:
        """The prompts as one batch of ComfyUI's conditioning."""
        states, pooled = (torch.cat(parts) for parts in zip(*map(self.encoded, prompts), strict=True))
        return [[states, {"pooled_output": pooled}]]

    def noise(self, n: int, seed: int) -> Tensor:
        """Noise for n pictures; equal seeds mean equal noise."""
        from concept_erasure.nodes.host.shapes import latent_shape

        shape = (n, *latent_shape(self.model, SIZE, SIZE))
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed))

    def draw(self, model: Any, prompts: Sequence[str], seed: int) -> Tensor:
        """One picture a prompt, (n, 3, 64, 64) in [0, 1], by ComfyUI's own sampler; equal seeds mean equal noise."""
        noise = self.noise(len(prompts), seed)
        with _cast_once(model):
            return sampling.draw(model, self.vae, self.conditioning, prompts, noise, seed, self.drawn_by)

    def draw_base(self, prompts: Sequence[str], seed: int) -> Tensor:
        """The base model's pictures (`draw`); drawn once."""
        key = (str(seed), *prompts)
        if key not in self._base_pictures:
            self._base_pictures[key] = self.draw(self.model, prompts, seed)
        return self._base_pictures[key]

    def judged(self, pictures: Tensor) -> dict[str, list[str]]:
        """Each judge's label for each picture."""
        return {factor: [first for first, *_ in answers] for factor, answers in self.ranked(pictures, 1).items()}

    @torch.inference_mode()
    def ranked(self, pictures: Tensor, k: int) -> dict[str, list[list[str]]]:
        """The k labels that each judge holds likeliest for each picture, likeliest first."""
        return {
            factor: [[self.labels[factor][i] for i in row] for row in top_labels(judge, pictures, k).tolist()]
            for factor, judge in self.judges.items()
        }


@contextmanager
def _cast_once(model: Any) -> Iterator[None]:
    """Inside, pictures are the same and take a tenth less time: what autocast casts at every call is cast once."""
    from concept_erasure.erasure_core.families import family_named
    from concept_erasure.erasure_core.memory.precision import cpu_computes_in_bf16
    from concept_erasure.nodes import host
    from concept_erasure.nodes.host.cast_once import text_cast_once, weights_cast_once

    if not cpu_computes_in_bf16():
        yield
        return
    host.use(model)
    network = model.model.diffusion_model
    is_unet = family_named(host.family_of(model)).is_unet
    text = text_cast_once(network, torch.bfloat16) if is_unet else nullcontext()
    with torch.inference_mode(), weights_cast_once(network, torch.bfloat16), text:  # weights may be inference tensors
        yield


def load_playground(models: Path | None = None, checkpoint: Path = CHECKPOINT) -> Playground:
    """Load the playground, or its flow form (`FLOW`), building it first if need be."""
    return _loaded(models or playground_models(comfyui.ensure()), checkpoint, JUDGE, FACTORS)


def load_picture_book(models: Path | None = None) -> Playground:
    """Load the picture book, with its judges `thing` and `style`, building it first if need be."""
    things = stored_things()
    labels = {factor: book_labels(factor, things) for factor in BOOK_FACTORS}
    return _loaded(models or picture_book_models(comfyui.ensure()), BOOK, BOOK_JUDGE, labels)


def _loaded(models: Path, checkpoint: Path, judge: Path, labels: Mapping[str, tuple[str, ...]]) -> Playground:
    load_comfy()
    load_pack()
    torch.set_flush_denormal(True)
    import comfy.sd
    from transformers import AutoModelForImageClassification

    with torch.inference_mode():
        model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(str(models / checkpoint))
    judges = {
        factor: AutoModelForImageClassification.from_pretrained(models / judge / factor).eval() for factor in labels
    }
    return Playground(model, clip, vae, judges, dict(labels))


def erase_once(
    testbed: Playground, name: str, targets: Sequence[str], seed: int, encoded: dict, model: Any = None, **settings: Any
) -> tuple:
    """Erase from the base model, or from `model`; returns the patched clone, the report and the edit. `encoded` is shared by
    runs.

    The model is opened anew each time: drawing with a patched clone puts that clone's weights into the shared module.
    """
    from concept_erasure.erasure_core.concepts import parse_request
    from concept_erasure.erasure_core.method import methods
    from concept_erasure.erasure_core.report import Report
    from concept_erasure.nodes import host

    report, meter = Report(), host.MemoryMeter(host.device())
    method, request = methods()[name](seed=seed, **settings), parse_request("\n".join(targets))
    model = testbed.model if model is None else model
    with host.open_session(model, testbed.clip, 64, 64, encoded) as denoiser, meter:
        erased = method.erase(denoiser, request, report)
        report.costs["UNet_evaluations_in_all"] = denoiser.evaluations
    report.costs["seconds"] = report.seconds()
    report.costs["peak_MB"] = meter.peak / 1e6
    return host.patched(model, erased, 1.0), report, erased
