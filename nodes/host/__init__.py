"""The one folder that knows ComfyUI's engine; everything else in the pack asks this one."""

from .attacked_model import ComfyAttackedModel
from .denoiser import ComfyDenoiser
from .foreign import translated
from .patching import family_of, patched
from .sampling import SAMPLERS, SCHEDULERS, ComfyImageSampler, fitting_size, use
from .services import (
    Cancelled,
    OutOfMemory,
    ProgressBar,
    check_cancelled,
    comfyui_folder,
    device,
    file_names,
    file_path,
    folders,
    generator,
    input_folder,
    is_out_of_memory,
    load_fully,
    memory_errors,
    models_folder,
    output_folder,
    register_folder,
    send_text,
)
from .session import open_session
from .shapes import check_vae
from .soft_prompts import embedding_file

__all__ = [
    "SAMPLERS",
    "SCHEDULERS",
    "Cancelled",
    "ComfyAttackedModel",
    "ComfyDenoiser",
    "ComfyImageSampler",
    "OutOfMemory",
    "ProgressBar",
    "check_cancelled",
    "check_vae",
    "comfyui_folder",
    "device",
    "embedding_file",
    "family_of",
    "file_names",
    "file_path",
    "fitting_size",
    "folders",
    "generator",
    "input_folder",
    "is_out_of_memory",
    "load_fully",
    "memory_errors",
    "models_folder",
    "open_session",
    "output_folder",
    "patched",
    "register_folder",
    "send_text",
    "translated",
    "use",
]
