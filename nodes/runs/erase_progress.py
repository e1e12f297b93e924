"""The progress of an erasure on its node: the bar, the step and the loss, and pictures of the target as it vanishes."""

from __future__ import annotations

from typing import Any

from PIL import Image
from torch import Tensor

from ...erasure_core.concepts import ErasureRequest
from ...erasure_core.denoiser import Conditioning, Denoiser
from ...erasure_core.method import ErasureMethod
from ...erasure_core.report import EVALUATIONS, TEXT, Report
from ...erasure_core.training.trajectory import sample_trajectories
from .. import host
from .progress import NodeProgress

PREVIEWS = 12
PREVIEW_SAMPLING_STEPS = 10


class Preview:
    """The live preview: the same noise sampled again every few optimiser steps, so that one sees the target vanish."""

    def __init__(self, denoiser: host.ComfyDenoiser, vae: Any, prompt: str, seed: int) -> None:
        self._denoiser, self._vae, self._seed = denoiser, vae, seed
        self._conditioning = denoiser.encode([prompt])

    def image(self) -> Image.Image:
        """The network's present picture of the target."""
        latents = sampled_latents(self._denoiser, self._conditioning, PREVIEW_SAMPLING_STEPS, self._seed)
        pixels = self._denoiser.picture(self._vae, latents)[0]
        return Image.fromarray((pixels.clamp(0, 1) * 255).byte().cpu().numpy())


def sampled_latents(denoiser: Denoiser, conditioning: Conditioning, steps: int, seed: int) -> Tensor:
    """Finished latents for `conditioning` from a fixed seed."""
    generator = host.generator(seed)
    _, latents = sample_trajectories(denoiser, conditioning, steps, 5.0, generator, host.check_cancelled)
    return latents


def reporting(
    denoiser: host.ComfyDenoiser, request: ErasureRequest, method: ErasureMethod, vae: Any, progress: NodeProgress
) -> Report:
    """A report that `progress` shows, with a picture of the first target now and then if there is a `vae`."""
    trains, steps = hasattr(method, "steps"), getattr(method, "steps", 1) * len(request.pairs)
    preview = Preview(denoiser, vae, request.targets[0], method.seed) if vae is not None else None

    def on_progress(step: int, total: int, loss: float) -> None:
        progress.left |= {TEXT: 0.0, EVALUATIONS: 0.0}  # what is left of the plan for what goes before
        place = f"{step} of {total}"
        progress.reached(f"optimiser step {place}, loss {loss:.4g}" if trains else f"layer {place}", step, total)

    def on_preview(step: int) -> None:
        nonlocal preview
        if preview is not None and (step == 1 or step == steps or step % max(1, steps // PREVIEWS) == 0):
            try:
                picture = preview.image()
            except Exception as error:  # noqa: BLE001 (whatever a VAE cannot do: the erasure goes on without pictures)
                preview = None
                report.note(
                    f"the preview was given up at step {step}, the erasure went on: {error or type(error).__name__}"
                )
                return
            progress.picture(picture)

    report = Report(on_progress=on_progress, on_preview=on_preview, check=progress.check)
    return report
