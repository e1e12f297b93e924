"""Find Adversarial Concept: which concepts does an edit hurt most?"""

from __future__ import annotations

import dataclasses
import math

import torch
from comfy_api.v0_0_2 import io

from ..erasure_core.concepts import ErasureRequest, check_request, lines, parse_request
from ..erasure_core.erased_unet import ErasedUNet
from ..erasure_core.method import ErasureMethod, check_visible
from ..erasure_core.report import STEPS, TEXT, Report
from ..erasure_core.search.adversary import Damage
from ..erasure_core.text.candidates import Candidates, encode_words, prefilter, shortlist
from ..erasure_core.text.synonyms import SYNONYM_SIMILARITY
from ..erasure_core.text.vocabulary import VOCABULARIES, words_of
from ..erasure_core.training.trajectory import NoisyBatch, sample_trajectories
from . import host
from .erase import erase
from .erased_unet import apply
from .inputs.sampling import check_sizes, refused, seed_input, size_inputs
from .inputs.types import CATEGORY, ErasedUNetType
from .inputs.widgets import chosen_method
from .pictures.charts import ERASED, Bar, as_image, bars
from .runs.progress import NodeProgress

CONCEPTS = "concepts"
"""Kind of work: concepts on which one of the two models is measured."""
PROBE_LEVELS = 6
PROBE_STEPS = 40
SEARCHED = 200
BATCH = 8


@dataclasses.dataclass(frozen=True)
class Ranking:
    """Concepts and the damage that an edit does to them (mean squared change of the prediction), worst first."""

    words: tuple[str, ...]
    damage: tuple[float, ...]
    synonyms: tuple[str, ...]


def probe_erasure(
    model: object,
    clip: object,
    request: ErasureRequest,
    width: int,
    height: int,
    seed: int,
    progress: NodeProgress | None = None,
) -> ErasedUNet:
    """A short erasure without any preservation, to see what it would hurt."""
    return erase(model, clip, request, _probe(seed), width, height, progress=progress)[0]


def _probe(seed: int) -> ErasureMethod:
    return chosen_method({"method": "esd", "steps": PROBE_STEPS}, seed)


@torch.no_grad()
def rank(
    model: object,
    clip: object,
    erased: ErasedUNet,
    request: ErasureRequest,
    words: list[str],
    width: int,
    height: int,
    seed: int,
    report: Report,
) -> Ranking:
    """Measure the damage of `erased` to every word, on latents of the frozen model at several noise levels.

    Raises ValueError, naming it, for a word that the text encoder cannot see.
    """
    edited_model = apply(model, erased, 1.0)
    with host.open_session(model, clip, width, height) as denoiser:
        denoiser.tell = report.check
        everything = encode_words(denoiser, words, report.check)
        check_visible(denoiser, (*request.targets, *words))
        targets = denoiser.encode(request.targets)
        nearest, synonyms = prefilter(everything, targets, SEARCHED, "nearest", SYNONYM_SIMILARITY)
        samples, _ = sample_trajectories(
            denoiser, denoiser.encode(["", *request.targets]), 16, 3.0, host.generator(seed), report.check
        )
        probes = samples.spread(PROBE_LEVELS)
        original = _predictions(denoiser, probes, nearest, report, 0)

    # one after the other: both models share one network, which has the weights of one of them at a time
    with host.open_session(edited_model, clip, width, height) as denoiser:
        damage = Damage(denoiser, probes)
        edited = _predictions(denoiser, probes, nearest, report, len(nearest))

    values = torch.cat([damage.between(new, old) for new, old in zip(edited, original, strict=True)])
    order = values.argsort(descending=True).tolist()
    return Ranking(tuple(nearest.words[i] for i in order), tuple(float(values[i]) for i in order), tuple(synonyms))


def _predictions(
    denoiser: host.ComfyDenoiser, probes: NoisyBatch, candidates: Candidates, report: Report, done: int
) -> list[torch.Tensor]:
    damage, parts = Damage(denoiser, probes), []
    for rows in torch.arange(len(candidates)).split(BATCH):
        parts.append(damage.predictions(candidates.conditioning.rows(rows)))
        report.on_progress(done + int(rows[-1]) + 1, 2 * len(candidates), 0.0)
    return parts


def bar_chart(ranking: Ranking, top: int, title: str) -> torch.Tensor:
    """The worst `top` concepts as horizontal bars: an image (1, height, width, 3) in [0, 1]."""
    words, damage = ranking.words[:top], ranking.damage[:top]
    largest = max(max(damage, default=0.0), 1e-12)
    rows = [
        (word or "(empty prompt)", [Bar(value / largest, math.nan, math.nan, f"{value:.2e}", ERASED)])
        for word, value in zip(words, damage, strict=True)
    ]
    return as_image(bars(rows, title, left=170))


def report_text(ranking: Ranking, title: str) -> str:
    """Every concept and its damage, in Markdown."""
    rows = "\n".join(
        f"| {word or '(empty)'} | {value:.3e} |" for word, value in zip(ranking.words, ranking.damage, strict=True)
    )
    text = f"# {title.capitalize()}\n\n| concept | mean squared change of the prediction |\n|---|---|\n{rows}\n"
    return text + (f"\nLeft out as synonyms: {', '.join(ranking.synonyms)}.\n" if ranking.synonyms else "")


class FindAdversarialConcept(io.ComfyNode):
    """Rank concepts by how much an erasure hurts them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See the class."""
        return io.Schema(
            node_id="ErasureFindAdversarialConcept",
            display_name="Find Adversarial Concept",
            category=CATEGORY,
            description="Finds the concepts that an erasure hurts most, so that you can retain them. With an erased UNet "
            "linked it measures that edit, without one a short trial erasure of the concepts.",
            search_aliases=["adversarial concept", "collateral damage", "retain", "AP"],
            inputs=[
                io.Model.Input("model", tooltip="The unedited model."),
                io.Clip.Input("clip", tooltip="The text encoder of the same checkpoint."),
                io.String.Input(
                    "concepts",
                    multiline=True,
                    default="",
                    placeholder="What is or will be erased, one concept a line",
                    tooltip="The erased concepts, or those to erase, one a line.",
                ),
                io.Combo.Input(
                    "vocabulary",
                    options=list(VOCABULARIES),
                    default="everyday_words",
                    tooltip="Where the candidates come from. model_words are the most frequent whole words of the text "
                    "encoder. The nearest to the concepts are measured.",
                ),
                io.Int.Input(
                    "top_k", default=12, min=1, max=200, tooltip="How many concepts to return, the worst first."
                ),
                *size_inputs("Width of the pictures measured on.", "Height of those pictures."),
                seed_input("Same seed, same ranking."),
                io.String.Input(
                    "candidates",
                    multiline=True,
                    optional=True,
                    tooltip="Concepts of your own to measure, one a line, in place of the vocabulary.",
                ),
                ErasedUNetType.Input(
                    "erased_unet", optional=True, tooltip="Measure this edit instead of a short trial erasure."
                ),
            ],
            outputs=[
                io.String.Output(
                    display_name="concepts", tooltip="The worst hurt concepts, one a line: link it to retain."
                ),
                io.Image.Output(display_name="chart", tooltip="A bar chart of the damage."),
                io.String.Output(display_name="report", tooltip="Every concept and its damage."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(
        cls,
        concepts: str | None = None,
        candidates: str | None = None,
        width: int | None = None,
        height: int | None = None,
    ) -> bool | str:
        """Checks before a checkpoint is loaded; an input that is linked is None."""
        return refused(
            lambda: check_request(concepts), lambda: check_request(None, candidates), lambda: check_sizes(width, height)
        )

    @classmethod
    def execute(
        cls,
        model,
        clip,
        concepts: str,
        vocabulary: str,
        top_k: int,
        width: int,
        height: int,
        seed: int,
        candidates: str = "",
        erased_unet: ErasedUNet | None = None,
    ) -> io.NodeOutput:
        """Rank and draw."""
        request, words = parse_request(concepts), lines(candidates or "")
        searched = min(len(words) or SEARCHED, SEARCHED)
        trial = {} if erased_unet else _probe(seed).work(request)
        progress = NodeProgress(cls.hidden.unique_id, {**trial, CONCEPTS: (2 * searched, float(PROBE_LEVELS))})

        edit = erased_unet or probe_erasure(model, clip, request, width, height, seed, progress)
        progress.plan({TEXT: (len(words) or searched, 1.0), STEPS: (0, 1.0)})

        def on_progress(step: int, total: int, _loss: float) -> None:
            progress.reached(f"measuring concepts, {step} of {total}", step, total, CONCEPTS)

        report = Report(on_progress=on_progress, check=progress.check)
        # the vocabulary may be the text encoder's own, which only an open session can read
        with host.memory_errors(f"measuring concepts at {width}x{height}", "width and height"):
            if not words:
                with host.open_session(model, clip, width, height) as denoiser:
                    words = words_of(vocabulary, denoiser, limit=1000)
                    words = [word for word in words if not request.says_target(word)]
                    words = shortlist(denoiser, request.targets, words, SEARCHED, "nearest")
            words = [word for word in dict.fromkeys(words) if not request.says_target(word)]
            if not words:
                raise ValueError(
                    "no candidate is left: every line of candidates is itself a concept to erase; add others"
                )
            ranking = rank(model, clip, edit, request, words, width, height, seed, report)
        progress.finish()
        title = f"damage of erasing {', '.join(request.targets)}"
        chart, text = bar_chart(ranking, top_k, title), report_text(ranking, title)
        return io.NodeOutput("\n".join(ranking.words[:top_k]), chart, text)
