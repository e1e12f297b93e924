"""The models linked to a node, and the checks that they fit together, before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...erasure_core.evaluation.judges.judge import ConceptJudge
from ...erasure_core.evaluation.sampler import Sampling


@dataclass(frozen=True)
class LinkedModels:
    """A base and an erased MODEL, the CLIP, VAE and judge that serve both, and how every picture is drawn.

    Raises ValueError if a MODEL is empty, or the two are of different families.
    """

    model: Any
    erased_model: Any
    clip: Any
    vae: Any
    judge: ConceptJudge | None
    sampling: Sampling

    def __post_init__(self) -> None:
        base, erased = family_of(self.model), family_of(self.erased_model)
        if base != erased:
            raise ValueError(
                f"model is a {base} model and erased_model a {erased} one; link the erased clone of the same model"
            )


def linked_models(
    model: Any, erased_model: Any, clip: Any, vae: Any, judge: ConceptJudge | None = None, **sampling: Any
) -> LinkedModels:
    """`LinkedModels` from a node's inputs, which have these names; `sampling` is the widgets of `inputs.sampling` but the
    seed, named as the fields of `Sampling`."""
    return LinkedModels(model, erased_model, clip, vae, judge, Sampling(**sampling))


def check_linked(model: object, clip: object = True) -> None:
    """Raise ValueError if what is linked is empty: a loader gives None for what its checkpoint does not hold."""
    if model is None:
        raise ValueError(
            "the linked MODEL is empty: this checkpoint has no diffusion model; load one with Load Diffusion Model"
        )
    if clip is None:
        raise ValueError("the linked CLIP is empty: this checkpoint has no text encoder; load one with Load CLIP")


def family_of(model: Any) -> str:
    """The family name of a MODEL, as `families.FAMILIES` spells it. Raises ValueError if the MODEL is empty."""
    check_linked(model)
    return type(model.model.model_config).__name__


def check_size(model: Any, width: int, height: int) -> None:
    """Raise ValueError, naming it and a size near by, if a width or height does not fit the model's latents."""
    ratio = model.model.latent_format.spacial_downscale_ratio
    for name, value in (("width", width), ("height", height)):
        if value % ratio or value <= 0:
            raise ValueError(
                f"{name} is {value}, which is no multiple of {ratio}; try {max(1, round(value / ratio)) * ratio}"
            )


def check_vae(model: Any, vae: Any) -> None:
    """Raise ValueError, naming both, if a VAE makes latents that the model cannot read.

    What a VAE does not say of itself is not compared. An image VAE serves a video model of as many channels, for which
    ComfyUI decodes the first frame (TAESD); a video VAE gives an image model five dimensions, and does not.
    """
    latent_format = model.model.latent_format
    reads = (latent_format.latent_channels, latent_format.spacial_downscale_ratio, latent_format.latent_dimensions)
    compression = getattr(vae, "spacial_compression_encode", lambda: reads[1])
    gives = (getattr(vae, "latent_channels", reads[0]), compression(), getattr(vae, "latent_dim", reads[2]))
    if gives[:2] == reads[:2] and gives[2] <= reads[2]:
        return
    given, wanted = (
        f"{channels} channels at 1/{ratio} of the picture's size, for {'pictures' if dimensions == 2 else 'videos'}"
        for channels, ratio, dimensions in (gives, reads)
    )
    raise ValueError(
        f"VAE and MODEL do not belong together: the latents of this VAE have {given}, those of the "
        f"{type(model.model.model_config).__name__} MODEL {wanted}. Link the VAE of the MODEL's own checkpoint, or its "
        f"family's from Load VAE"
    )
