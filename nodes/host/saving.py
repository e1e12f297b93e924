"""Warnings for a MODEL with an erased UNet that is saved as a checkpoint, trained on, merged, extracted or compiled.

Saving and training can undo an erasure ("Safety Alignment Backfires", arXiv 2412.00357); an edit that acts while
the model runs is either lost or stays whole. None goes through a node of ours, so `host.carrier` lets the MODEL itself warn.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...erasure_core.erased_unet import Provenance

ATTACHMENT = "erasure.carried"
ADVICE = (
    "Keep the erased UNet as a file of its own (Save Erased UNet), train on the original checkpoint, "
    "and apply both when you draw"
)
AFTERWARDS = "To have it whole, apply the erased UNet (Apply Erased UNet) to the merged MODEL"


def names(carried: Sequence[Provenance]) -> str:
    """The erased targets, quoted, each once."""
    targets = dict.fromkeys(target for provenance in carried for target, _anchor in provenance.targets)
    return ", ".join(repr(target) for target in targets)


def acting(carried: Sequence[Provenance]) -> list[Provenance]:
    """Those that act while the model runs."""
    return [provenance for provenance in carried if provenance.kind != "weights"]


def on_saving(carried: Sequence[Provenance]) -> str:
    """The warning for a checkpoint that is being written."""
    in_weights = "this file merges {} into the weights: fine-tuning on top of them can bring the concept back"
    return _sentence(carried, in_weights, "{} acts while the model runs and is not in this file", ADVICE)


def on_training(carried: Sequence[Provenance]) -> str:
    """The warning for a training run on top of an erasure."""
    return f"training on top of the erasure of {names(carried)} can bring the concept back. {ADVICE}."


def on_lending(carried: Sequence[Provenance]) -> str:
    """The warning for a MODEL whose weights are merged into another."""
    lost = "{} acts while the model runs and is lost, for only weights are taken from this MODEL"
    return _sentence(carried, "{} is merged as the weights are, in the same proportion", lost, AFTERWARDS)


def on_merging(carried: Sequence[Provenance]) -> str:
    """The warning for a MODEL into which another one's weights are merged."""
    whole = "{} acts while the model runs and is whole: it acts on the merged MODEL too"
    scaled = "{} is merged as the weights are, in the same proportion"
    return _sentence(carried, scaled, whole, AFTERWARDS if len(acting(carried)) < len(carried) else "")


def on_extracting(carried: Sequence[Provenance]) -> str:
    """The warning for a LoRA that is being extracted."""
    lost = "{} acts while the model runs and is not in the extracted LoRA"
    advice = "Keep the erased UNet as a file of its own (Save Erased UNet)"
    return _sentence(carried, "the LoRA holds {} only as nearly as its rank allows", lost, advice)


def on_compiling(carried: Sequence[Provenance]) -> str:
    """The note for a MODEL that is compiled."""
    return (
        f"the erasure of {names(acting(carried))} acts while the model runs and is whole, but wherever it acts the model "
        f"runs uncompiled, no faster than without Torch Compile."
    )


def _sentence(carried: Sequence[Provenance], in_weights: str, at_inference: str, advice: str) -> str:
    """The text for edits of weights and for those that act at inference, if there are such, and the advice."""
    merged = [provenance for provenance in carried if provenance.kind == "weights"]
    kinds = ((merged, in_weights), (acting(carried), at_inference))
    parts = [text.format(f"the erasure of {names(edits)}") for edits, text in kinds if edits]
    return ". ".join(filter(None, ("; ".join(parts), advice))) + "."
