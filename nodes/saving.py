"""What to say when a MODEL that carries an erased UNet is saved as a checkpoint, or trained on.

Both can undo an erasure ("Safety Alignment Backfires", arXiv 2412.00357), and neither goes through a node of ours;
`host.patched` lets the MODEL itself say it.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..erasure_core.erased_unet import Provenance

ATTACHMENT = "erasure.carried"
ADVICE = (
    "Keep the erased UNet as a file of its own (Save Erased UNet), train on the original checkpoint, "
    "and apply both when you draw"
)


def names(carried: Sequence[Provenance]) -> str:
    """The erased targets, quoted, each once."""
    targets = dict.fromkeys(target for provenance in carried for target, _anchor in provenance.targets)
    return ", ".join(repr(target) for target in targets)


def on_saving(carried: Sequence[Provenance]) -> str:
    """The warning for a checkpoint that is being written."""
    merged = [provenance for provenance in carried if provenance.kind == "weights"]
    acting = [provenance for provenance in carried if provenance.kind != "weights"]
    parts = []
    if merged:
        parts.append(
            f"this file merges the erasure of {names(merged)} into the weights: fine-tuning on top of them can bring "
            f"the concept back"
        )
    if acting:
        parts.append(f"the erasure of {names(acting)} acts while the model runs and is not in this file")
    return f"{'; '.join(parts)}. {ADVICE}."


def on_training(carried: Sequence[Provenance]) -> str:
    """The warning for a training run on top of an erasure."""
    return f"training on top of the erasure of {names(carried)} can bring the concept back. {ADVICE}."
