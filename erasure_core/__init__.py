"""Concept erasure for diffusion models: torch and numpy only, no ComfyUI. A model is whatever fulfils `denoiser.Denoiser`.

Importing the core registers every method and every attack.
"""

from . import methods as _methods  # noqa: F401
from .red_team import attacks as _attacks  # noqa: F401
