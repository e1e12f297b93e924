"""Train and load a concept SAE: the sparse autoencoder that the method saeuron reads concepts from."""

from __future__ import annotations

import os
from pathlib import Path

from comfy_api.v0_0_2 import io

from ..erasure_core.concepts import lines
from ..erasure_core.denoiser import Denoiser
from ..erasure_core.files import write_new
from ..erasure_core.report import EVALUATIONS, STEPS, TEXT
from ..erasure_core.sae.autoencoder import ConceptSAE, default_block, load_sae, packed_sae
from ..erasure_core.sae.training import SAESettings, gather, train_sae
from ..erasure_core.text.prompt_templates import draw_templates
from ..erasure_core.text.vocabulary import words_of
from . import host
from .inputs.sampling import check_sizes, refused, seed_input, size_inputs
from .inputs.types import CATEGORY, ConceptSAEType
from .outputs.file_names import numbered, safe_prefix
from .runs.progress import NodeProgress

FOLDER_KIND = "concept_saes"
AUTO = "auto"
VOCABULARY = "everyday_words"
VECTORS = 400_000
SAMPLING_STEPS = 20
GUIDANCE_SCALE = 3.0


def chosen_block(denoiser: Denoiser, wanted: str) -> str:
    """The name of a transformer block: `auto`, a name, or its number, from 1, in the order in which they are run. Raises
    ValueError, naming the blocks that there are."""
    names = list(denoiser.blocks("transformer"))
    wanted = wanted.strip()
    if wanted in ("", AUTO):
        return default_block(names)
    if wanted.isdecimal() and 1 <= int(wanted) <= len(names):
        return names[int(wanted) - 1]
    if wanted not in names:
        listed = ", ".join(f"{i} = {name}" for i, name in enumerate(names, 1))
        raise ValueError(f"block is {wanted!r}; write {AUTO!r}, or one of the transformer blocks: {listed}")
    return wanted


def sentences(prompts: str, denoiser: Denoiser, seed: int) -> list[str]:
    """The user's prompts, or with none, each word of a vocabulary of everyday words in a sentence."""
    given = lines(prompts)
    if given:
        return given
    generator = host.generator(seed)
    words = words_of(VOCABULARY, denoiser, limit=1000)
    return [draw_templates(word, 1, generator)[0].with_concept(word) for word in words]


def train(
    model: object,
    clip: object,
    prompts: str,
    block: str,
    settings: SAESettings,
    width: int,
    height: int,
    seed: int,
    node_id: str | None = None,
) -> tuple[ConceptSAE, str]:
    """Train on a clone of `model`, which is left as it was; the autoencoder and a report in Markdown.

    Raises RuntimeError, saying what to lower, when memory runs out.
    """
    progress = NodeProgress(node_id, {STEPS: (settings.steps, 5.0)})

    def on_step(step: int, loss: float) -> None:
        host.check_cancelled()
        progress.reached(f"training step {step} of {settings.steps}, FVU {loss:.3f}", step, settings.steps)

    memory, generator = host.MemoryMeter(host.device()), host.generator(seed)
    doing, lower = f"training a concept SAE at {width}x{height}", "expansion, width and height, or take fewer prompts"
    with host.memory_errors(doing, lower), host.open_session(model, clip, width, height) as denoiser, memory:
        name, texts = chosen_block(denoiser, block), sentences(prompts, denoiser, seed)
        denoiser.tell = progress
        progress.plan({TEXT: (len(texts), 1.0), EVALUATIONS: (2 * len(texts) * SAMPLING_STEPS, 1.0)})

        vectors = gather(
            denoiser,
            {name: denoiser.blocks("transformer")[name]},
            texts,
            steps=SAMPLING_STEPS,
            guidance_scale=GUIDANCE_SCALE,
            limit=VECTORS,
            generator=generator,
            check=progress.check,
        )[name]

        sae = train_sae(
            vectors.flatten(0, 2),
            settings,
            generator=generator,
            block=name,
            family=denoiser.family,
            fingerprint=denoiser.fingerprint,
            on_step=on_step,
        )
    progress.finish()
    return sae, report_text(sae, len(texts), memory.peak / 1e6)


def report_text(sae: ConceptSAE, prompts: int, megabytes: float) -> str:
    """The report in Markdown: what was trained, and how well it reads the block."""
    figures = sae.training
    rows = [
        f"# Concept SAE of {sae.block} ({sae.family})",
        "",
        f"- {sae.latents} latents of {sae.d_in} channels, from {figures['vectors']:,} vectors of {prompts} prompts",
        f"- FVU {figures['fvu']:.3f}: the share of the variance that it leaves unexplained",
        f"- {figures['firing']:.1f} latents fire at a position on average; {100 * figures['dead_share']:.1f} % never fire",
        f"- {2 * prompts * SAMPLING_STEPS:,} UNet evaluations, {figures['steps']} training steps, {megabytes:,.0f} MB",
    ]
    return "\n".join(rows)


class TrainConceptSAE(io.ComfyNode):
    """Train a sparse autoencoder on a block of the model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See the class."""
        return io.Schema(
            node_id="ErasureTrainConceptSAE",
            display_name="Train Concept SAE",
            category=CATEGORY,
            description="Trains a sparse autoencoder on the outputs of one block of the model while it samples. It takes "
            "long, and is done once for a model: every erasure with the method saeuron can then use it.",
            search_aliases=["sparse autoencoder", "SAE", "SAeUron", "latents"],
            inputs=[
                io.Model.Input("model", tooltip="The model to read. It stays as it is."),
                io.Clip.Input("clip", tooltip="The text encoder of the same checkpoint."),
                io.String.Input(
                    "prompts",
                    multiline=True,
                    default="",
                    tooltip="Prompts to sample for the training, one a line: the more varied, the better. Empty: "
                    "sentences with everyday words.",
                ),
                io.String.Input(
                    "block",
                    default=AUTO,
                    tooltip="The transformer block to read: its name, or its number in the order of running. auto takes "
                    "the one a little past the middle (output_blocks.4.1 in SD 1.5), which is good for objects.",
                ),
                io.Int.Input(
                    "expansion",
                    default=8,
                    min=1,
                    max=64,
                    tooltip="Latents for each channel. More tell concepts better apart.",
                ),
                io.Int.Input(
                    "k", default=32, min=1, max=1024, tooltip="How many latents fire at a position, on average."
                ),
                io.Int.Input("steps", default=4000, min=1, max=1000000, tooltip="Training steps."),
                *size_inputs("Width of the pictures sampled.", "Height of those pictures."),
                seed_input("Same seed, same settings, same result."),
                io.String.Input(
                    "filename_prefix",
                    default="concept_sae",
                    optional=True,
                    tooltip="Name of the file in models/concept_saes, without number and ending. Empty: it is not saved.",
                ),
            ],
            outputs=[
                ConceptSAEType.Output(display_name="CONCEPT_SAE", tooltip="For concept_sae of Erase Concept."),
                io.String.Output(display_name="report", tooltip="How well it reads the block, and what it cost."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, width: int | None = None, height: int | None = None) -> bool | str:
        """Checks before a checkpoint is loaded; an input that is linked is None."""
        return refused(lambda: check_sizes(width, height))

    @classmethod
    def execute(
        cls,
        model,
        clip,
        prompts: str,
        block: str,
        expansion: int,
        k: int,
        steps: int,
        width: int,
        height: int,
        seed: int,
        filename_prefix: str = "",
    ) -> io.NodeOutput:
        """Train, save if asked to, and report."""
        # before the training: a bad name must not cost an hour
        prefix = safe_prefix(filename_prefix, width, height) if (filename_prefix or "").strip() else None
        settings = SAESettings(expansion=expansion, k=k, steps=steps, learning_rate=1e-3, batch=2048)
        sae, report = train(model, clip, prompts, block, settings, width, height, seed, cls.hidden.unique_id)
        if prefix is not None:
            path = write_new(numbered(host.models_folder() / FOLDER_KIND, prefix), packed_sae(sae))
            report += f"\n- saved {path}"
        return io.NodeOutput(sae, report)


class LoadConceptSAE(io.ComfyNode):
    """Load a sparse autoencoder from a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See the class."""
        return io.Schema(
            node_id="ErasureLoadConceptSAE",
            display_name="Load Concept SAE",
            category=CATEGORY,
            description="Loads a concept SAE that Train Concept SAE saved. Only safetensors files are read.",
            search_aliases=["sparse autoencoder", "SAE", "SAeUron"],
            inputs=[
                io.Combo.Input(
                    "name", options=host.file_names(FOLDER_KIND), tooltip="Concept SAEs in models/concept_saes."
                )
            ],
            outputs=[ConceptSAEType.Output(display_name="CONCEPT_SAE", tooltip="For concept_sae of Erase Concept.")],
        )

    @classmethod
    def fingerprint_inputs(cls, name: str) -> str:
        """A file that was written anew is loaded anew."""
        path = _find(name)
        return f"{path}:{os.stat(path).st_mtime_ns}"

    @classmethod
    def execute(cls, name: str) -> io.NodeOutput:
        """Read and check the file."""
        return io.NodeOutput(load_sae(Path(_find(name))))


def _find(name: str) -> str:
    path = host.file_path(FOLDER_KIND, name)
    if path is None:
        raise ValueError(f"there is no concept SAE named {name!r}; train one first, or press R to refresh the list")
    return path
