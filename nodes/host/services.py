"""ComfyUI's services around a run: cancelling, progress, messages on nodes, folders, the device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
import torch

from ...erasure_core.memory.micro_batches import says_out_of_memory

OutOfMemory = comfy.model_management.OOM_EXCEPTION
Cancelled = comfy.model_management.InterruptProcessingException
ProgressBar = comfy.utils.ProgressBar


def check_cancelled(doing: str = "", node_id: str | None = None, **_done: float) -> None:
    """Raise `Cancelled` if the user cancelled, else show on a node, if one is named, what the run is at (`report.Check`)."""
    comfy.model_management.throw_exception_if_processing_interrupted()
    if doing:
        send_text(doing, node_id)


def is_out_of_memory(error: Exception) -> bool:
    """True for every way in which a device or the CPU says that memory ran out."""
    return says_out_of_memory(error) or isinstance(error, OutOfMemory) or comfy.model_management.is_oom(error)


@contextmanager
def memory_errors(doing: str, lower: str) -> Iterator[None]:
    """Inside, running out of memory is a RuntimeError that names what was being done and what to lower."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise RuntimeError(f"out of memory while {doing}. Lower {lower}; the model is unchanged") from error


def send_text(text: str, node_id: str | None) -> None:
    """Show a line of text on a running node, if a server is there to show it."""
    from server import PromptServer

    instance = getattr(PromptServer, "instance", None)
    if instance is not None and node_id is not None:
        instance.send_progress_text(text, node_id)


def output_folder() -> str:
    """ComfyUI's output folder."""
    return folder_paths.get_output_directory()


def input_folder() -> Path:
    """ComfyUI's input folder, into which the user puts files."""
    return Path(folder_paths.get_input_directory())


def models_folder() -> Path:
    """ComfyUI's models folder."""
    return Path(folder_paths.models_dir)


def comfyui_folder() -> Path:
    """Where the host's own code lies."""
    return Path(folder_paths.__file__).resolve().parent


def register_folder(kind: str, *paths: str) -> None:
    """Let ComfyUI list `.safetensors` files of a model kind of ours."""
    for path in paths:
        folder_paths.add_model_folder_path(kind, path)
    folders, _ = folder_paths.folder_names_and_paths[kind]
    folder_paths.folder_names_and_paths[kind] = (folders, {".safetensors"})


def file_names(kind: str) -> list[str]:
    """Names of the files that ComfyUI lists for a model kind."""
    return folder_paths.get_filename_list(kind)


def file_path(kind: str, name: str) -> str | None:
    """Full path of a listed file, or None if there is none of that name inside the kind's folders."""
    return folder_paths.get_full_path(kind, name)


def folders(kind: str) -> list[Path]:
    """The folders that ComfyUI knows for a model kind."""
    return [Path(path) for path in folder_paths.get_folder_paths(kind)]


def generator(seed: int) -> torch.Generator:
    """A local source of random numbers; the global one is never touched."""
    return torch.Generator().manual_seed(seed)


def device() -> torch.device:
    """The device that ComfyUI computes on."""
    return comfy.model_management.get_torch_device()


def load_fully(patcher: Any) -> None:
    """Have ComfyUI's memory management load the whole model, other models making room."""
    comfy.model_management.load_models_gpu([patcher], force_full_load=True)


def is_compiled(patcher: Any) -> bool:
    """True for a MODEL with a wrapper that compiles the network, as Torch Compile adds it."""
    return any("compile" in str(key) for by_key in patcher.wrappers.values() for key in by_key)


def make_room(patcher: Any, wanted: int) -> int:
    """Bytes that are free on a loaded model's device, after ComfyUI has taken other models off it, as far as `wanted` bytes
    ask for that. What the user keeps for other programs is not counted."""
    device = patcher.load_device
    if device.type == "cpu":
        return _free(device)
    loaded = comfy.model_management.current_loaded_models
    clones = [one for one in loaded if one.model is not None and one.model.model is patcher.model]
    reserved = comfy.model_management.extra_reserved_memory()
    comfy.model_management.free_memory(wanted + reserved, device, keep_loaded=clones)
    return max(0, _free(device) - reserved)


def _free(device: torch.device) -> int:
    free: Any = comfy.model_management.get_free_memory(device)  # a pair only if one asks for torch's share too
    return int(free)
