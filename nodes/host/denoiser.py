"""A loaded MODEL and CLIP as a `Denoiser`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.patcher_extension
import comfy.sampler_helpers
import comfy.samplers
import comfy.sd
import comfy.utils
import torch
from comfy.cli_args import args as comfy_arguments  # noqa: F401  (parsed before torch looks for a device)
from torch import Tensor, nn

from ...erasure_core.adapters import is_editable
from ...erasure_core.denoiser import TOKENS, Conditioning
from ...erasure_core.guidance import per_sample
from ...erasure_core.layers import blocks, select
from ..base_model import fingerprint, positions, whole_words
from .sampling import check_size
from .services import check_cancelled, check_linked
from .text import TextEncoder, text_cache

_TRAINABLE_TYPES = (torch.float32, torch.float16, torch.bfloat16)


class ComfyDenoiser:
    """A MODEL and CLIP as `erasure_core.denoiser.Denoiser`. Made by `opened`, which loads and cleans up.

    `evaluations` counts the samples that `predict` was asked for.
    """

    def __init__(
        self,
        patcher: comfy.model_patcher.ModelPatcher,
        clip: comfy.sd.CLIP,
        width: int,
        height: int,
        encoded: dict[str, dict[str, Tensor]],
    ) -> None:
        self._patcher, self._clip, self._model = patcher, clip, patcher.model
        self._width, self._height = width, height
        self._encoded = encoded
        self.text_encoder = TextEncoder(clip, text_cache())
        self._constants: dict[str, Any] = {}
        self.evaluations = 0
        self.family = type(self._model.model_config).__name__
        self.device = patcher.load_device
        self.fingerprint = fingerprint(patcher)

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """See `Denoiser.encode`; what was encoded once is kept for the run, and on disk for the next (`TextEncoder`)."""
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._encoded]
        with torch.no_grad():
            for prompt in missing:
                check_cancelled()
                self._encoded[prompt] = self._encode(prompt)
        if missing:
            load_fully(self._patcher)  # on a small card the text encoder may have pushed the model out
        rows = [Conditioning(self._encoded[prompt]) for prompt in prompts]
        return Conditioning.cat(rows)

    def _encode(self, prompt: str) -> dict[str, Tensor]:
        return self._read(self._clip.tokenize(prompt), prompt)

    def _read(self, tokens: dict[str, Any], prompt: str) -> dict[str, Tensor]:
        """What the model is told about one prompt, given by its tokens."""
        conds = comfy.sampler_helpers.convert_cond([self.text_encoder(tokens)])
        noise = self.empty_latents(1)
        processed = comfy.samplers.process_conds(self._model, noise, {"positive": conds}, self.device)["positive"][0]
        values = {}
        for name, cond in processed["model_conds"].items():
            value = cond.process_cond(batch_size=1, area=None).cond
            if torch.is_tensor(value):
                values[name] = value.to(self.device).clone()
            else:
                self._constants[name] = value
        if TOKENS not in values:
            raise ValueError(
                f"the text of {prompt!r} does not reach {self.family} models as cross-attention; unsupported"
            )
        return values

    def sigmas(self, n: int) -> Tensor:
        """See `Denoiser.sigmas`: ComfyUI's `normal` scheduler."""
        return comfy.samplers.calculate_sigmas(self._model.model_sampling, "normal", n).to(self.device)

    def empty_latents(self, n: int) -> Tensor:
        """See `Denoiser.empty_latents`."""
        latent_format = self._model.latent_format
        ratio = latent_format.spacial_downscale_ratio
        return torch.zeros(
            (n, latent_format.latent_channels, self._height // ratio, self._width // ratio), device=self.device
        )

    def predict(self, latents: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        """See `Denoiser.predict`. Works in bf16 where the device is fast at it; LoRAs and patches of the MODEL act.

        Raises RuntimeError if another clone was loaded meanwhile: clones share their weights, patches and all.
        """
        if self._model.current_weight_patches_uuid != self._patcher.patches_uuid:
            raise RuntimeError("another clone of this MODEL was loaded while it was being erased from; open it again")
        self.evaluations += len(sigma)
        options = comfy.model_patcher.create_model_options_clone(self._patcher.model_options)
        transformer_options = options.get("transformer_options", {})
        wrappers = comfy.patcher_extension.copy_nested_dicts(self._patcher.wrappers)
        transformer_options |= {"cond_or_uncond": [0], "sigmas": sigma, "wrappers": wrappers}
        arguments = {**conditioning.values, **self._constants, "transformer_options": transformer_options}
        with self._precision():
            wrapper = options.get("model_function_wrapper")
            if wrapper is not None:
                call = {"input": latents, "timestep": sigma, "c": arguments, "cond_or_uncond": [0]}
                denoised = wrapper(self._model.apply_model, call)
            else:
                denoised = self._model.apply_model(latents, sigma, **arguments)
        return (latents - denoised.float()) / per_sample(sigma, latents)

    def _precision(self) -> AbstractContextManager:
        if self.device.type == "cpu":
            fast = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        else:
            # a float16 forward pass has no gradient scaling here, so its small gradients would vanish
            fast = comfy.model_management.should_use_bf16(self.device)
        return torch.autocast(self.device.type, torch.bfloat16) if fast else nullcontext()

    def layers(self, group: str) -> dict[str, nn.Module]:
        """See `Denoiser.layers`; also raises ValueError for quantised weights."""
        modules = {name: module for name, module in self._model.diffusion_model.named_modules() if is_editable(module)}
        chosen = {name: modules[name] for name in select(self.family, group, list(modules))}
        for name, module in chosen.items():
            if module.weight.dtype not in _TRAINABLE_TYPES or type(module.weight.data) is not Tensor:
                raise ValueError(
                    f"the MODEL is quantised: {name} has weights of type {module.weight.dtype}. Load it as float16, "
                    f"bfloat16 or float32 (in Load Diffusion Model: weight_dtype 'default' with an unquantised file), "
                    f"erase there, and apply the result to the quantised MODEL if you like"
                )
        return chosen

    def modules(self) -> dict[str, nn.Module]:
        """See `Denoiser.modules`."""
        return dict(self._model.diffusion_model.named_modules())

    def blocks(self, kind: str) -> dict[str, nn.Module]:
        """See `Denoiser.blocks`."""
        modules = self.modules()
        return {name: modules[name] for name in blocks(self.family, kind, modules)}

    def heads(self, attention: str) -> int:
        """See `Denoiser.heads`."""
        return self._model.diffusion_model.get_submodule(attention).heads

    def positions(self, prompt: str, phrase: str | None = None) -> list[int]:
        """See `Denoiser.positions`."""
        return positions(self._clip, prompt, phrase)

    def known_words(self) -> list[str]:
        """See `Denoiser.known_words`."""
        return whole_words(self._clip)

    def describe_prompt(self, prompt: str) -> str | None:
        """See `Denoiser.describe_prompt`."""
        said, nothing = self.encode([prompt]).tokens, self.encode([""]).tokens
        if said.shape == nothing.shape and torch.equal(said, nothing):
            return "the text encoder sees nothing in it (only unknown tokens); write it in words it knows"
        return None

    @torch.no_grad()
    def latents_of(self, vae: comfy.sd.VAE, images: Tensor) -> Tensor:
        """Images (n, height, width, 3) in [0, 1], scaled and cropped to the run's size -> latents in model space."""
        scaled = comfy.utils.common_upscale(images.movedim(-1, 1), self._width, self._height, "bicubic", "center")
        latents = self._model.process_latent_in(vae.encode(scaled.movedim(1, -1)[..., :3]))
        load_fully(self._patcher)
        return latents.to(self.device).float().clone()

    @torch.no_grad()
    def picture(self, vae: comfy.sd.VAE, latents: Tensor) -> Tensor:
        """Latents in model space -> images (n, height, width, 3) in [0, 1]."""
        images = vae.decode(self._model.process_latent_out(latents))
        load_fully(self._patcher)
        return images


def load_fully(patcher: comfy.model_patcher.ModelPatcher) -> None:
    """Have ComfyUI's memory management load the whole model, other models making room."""
    comfy.model_management.load_models_gpu([patcher], force_full_load=True)


def differentiable_weights(model: nn.Module) -> None:
    """Replace weights made under inference mode, which autograd refuses, by equal copies; values stay as they were."""
    for name, parameter in list(model.named_parameters()):
        if parameter.is_inference():
            comfy.utils.set_attr_param(model, name, parameter.data)
    for name, buffer in list(model.named_buffers()):
        if buffer.is_inference():
            comfy.utils.set_attr_buffer(model, name, buffer.clone())


@contextmanager
def opened(
    model: Any,
    clip: Any,
    width: int,
    height: int,
    encoded: dict[str, dict[str, Tensor]] | None = None,
    kind: type[ComfyDenoiser] = ComfyDenoiser,
) -> Iterator[ComfyDenoiser]:
    """A denoiser that can be trained on, on a clone of `model`; afterwards everything is as it was.

    `encoded` lets several runs with one CLIP share what it encoded.

    Raises ValueError if MODEL or CLIP is empty, the size does not fit the latents, or the two do not belong together.
    """
    check_linked(model, clip)
    check_size(model, width, height)
    was_training = comfy.model_management.in_training
    with torch.inference_mode(False), torch.enable_grad():
        patcher = model.clone(disable_dynamic=True)
        try:
            load_fully(patcher)
            patcher.pre_run()
            # fused kernels have no backward pass; this switches them off
            comfy.model_management.in_training = True
            differentiable_weights(patcher.model)
            denoiser = kind(patcher, clip, width, height, {} if encoded is None else encoded)
            _check_clip(denoiser)
            yield denoiser
        finally:
            comfy.model_management.in_training = was_training
            patcher.cleanup()
            comfy.model_management.soft_empty_cache()


def _check_clip(denoiser: ComfyDenoiser) -> None:
    """Raise ValueError if the text is not as wide as the model reads it."""
    width = denoiser.encode([""]).tokens.shape[-1]
    reads = denoiser._model.model_config.unet_config.get("context_dim")
    if reads is not None and width != reads:
        raise ValueError(
            f"CLIP and MODEL do not belong together: this CLIP gives text of width {width}, the {denoiser.family} MODEL "
            f"reads {reads}. Take both from one checkpoint"
        )
