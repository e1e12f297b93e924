# ruff: noqa: F401 (names for the other folders; what is not here is the host's own business)
"""The one folder that knows ComfyUI's engine; everything else in the pack asks this one."""

from .attacked_model import ComfyAttackedModel
from .base_model import fingerprint, weights_read_as_words
from .denoiser import ComfyDenoiser
from .foreign import translated
from .linked import LinkedModels, check_vae, family_of, linked_models
from .memory_meter import MemoryMeter
from .patching import patched
from .sampling import SAMPLERS, SCHEDULERS, ComfyImageSampler, use
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
from .shapes import fitting_size
from .soft_prompts import embedding_file
