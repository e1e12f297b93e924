"""A loaded MODEL and CLIP as a `Denoiser`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any
from uuid import uuid4

import comfy.conds
import comfy.model_management
import comfy.model_patcher
import comfy.sampler_helpers
import comfy.samplers
import comfy.sd
import comfy.utils
import torch
from comfy.cli_args import args as comfy_arguments  # noqa: F401  (parsed before torch looks for a device)
from torch import Tensor, nn

from ...erasure_core.denoiser import TOKENS, Conditioning, check_text
from ...erasure_core.families import family_named
from ...erasure_core.guidance import prediction_of
from ...erasure_core.layers import blocks, is_editable, rows, select, shape_of
from ...erasure_core.memory.precision import cpu_computes_in_bf16
from ...erasure_core.report import unwatched
from .base_model import fingerprint, positions, token_vectors, whole_words
from .cast_once import bytes_cast, text_cast_once, weights_cast_once
from .conditioning import calls, processed
from .services import check_cancelled, is_compiled, is_out_of_memory, load_fully, make_room
from .shapes import latent_shape, pictures_of
from .text import TextEncoder, passes, text_cache

SCHEDULE = 20
"""Sampling steps of the schedule that wrappers see before a run has asked for one of its own."""


class ComfyDenoiser:
    """A MODEL and CLIP as `erasure_core.denoiser.Denoiser`. Made by `session.open_session`, which loads and cleans up.

    `evaluations` counts the samples that `predict` was asked for. `tell(text=1)` and, without gradients,
    `tell(evaluations=n)` are called as the work is done (`report.Progress`). `notes` say what of the MODEL the run leaves out.
    """

    def __init__(
        self,
        patcher: comfy.model_patcher.ModelPatcher,
        clip: comfy.sd.CLIP,
        width: int,
        height: int,
        encoded: dict[str, dict[str, Tensor]],
        notes: Sequence[str] = (),
    ) -> None:
        self._patcher, self._clip, self._model = patcher, clip, patcher.model
        self._width, self._height = width, height
        self._options = _sampling_options(patcher)
        self._encoded, self.notes = encoded, tuple(notes)
        self.text_encoder = TextEncoder(clip, text_cache())
        self.evaluations = 0
        self.tell: Callable[..., object] = unwatched
        self.family = type(self._model.model_config).__name__
        self._facts = family_named(self.family)
        self.device: torch.device = patcher.load_device
        self.fingerprint = fingerprint(patcher)
        blocks_run = [] if is_compiled(patcher) else blocks(self.family, "checkpointed", self.modules())
        self._last_block = self.modules()[blocks_run[-1]] if blocks_run else None

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """See `Denoiser.encode`; what was encoded once is kept for the run, and on disk for the next (`TextEncoder`)."""
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._encoded]
        texts = {}
        with torch.no_grad():
            tokens = [self._clip.tokenize(prompt) for prompt in missing]
            for together in passes(tokens):
                check_cancelled()
                answers = self.text_encoder([tokens[i] for i in together])
                texts |= {missing[i]: answer for i, answer in zip(together, answers, strict=True)}
                self.tell(text=len(together))
            for prompt, (states, others) in texts.items():
                check_text(prompt, states, *filter(torch.is_tensor, others.values()))
            if missing:
                load_fully(self._patcher)  # on a small card the text encoder may have pushed the model out
            for prompt, text in texts.items():
                self._encoded[prompt] = processed(self._model, [text], self.empty_latents(1))
        return Conditioning.cat([Conditioning(self._encoded[prompt]) for prompt in prompts])

    def _read(self, tokens: dict[str, Any]) -> dict[str, Tensor]:
        """The model's arguments for one prompt, given by its tokens; a gradient reaches these."""
        return processed(self._model, self.text_encoder([tokens]), self.empty_latents(1))

    def read(self, tokens: Tensor) -> Tensor:
        """See `Denoiser.read`."""
        if not self._facts.reads:
            return tokens
        with self._precision():  # inside `learning` its weights have the type of autocast
            return self._model.diffusion_model.get_submodule(self._facts.reads)(tokens).float()

    def sampling(self, steps: int, guidance_scale: float) -> tuple[int, float]:
        """See `Denoiser.sampling`."""
        few, layer = self._facts.few_steps, self._facts.guidance_in
        built_in = few or (layer and layer in self.modules())
        return (min(steps, few) if few else steps), (1.0 if built_in else guidance_scale)

    def sigmas(self, n: int) -> Tensor:
        """See `Denoiser.sigmas`: ComfyUI's `normal` scheduler."""
        schedule = comfy.samplers.calculate_sigmas(self._model.model_sampling, "normal", n).to(self.device)
        self._options["transformer_options"]["sample_sigmas"] = schedule  # where wrappers look up how far a run is
        return schedule

    def empty_latents(self, n: int) -> Tensor:
        """See `Denoiser.empty_latents`."""
        return torch.zeros((n, *latent_shape(self._patcher, self._width, self._height)), device=self.device)

    def predict(self, latents: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        """See `Denoiser.predict`. Works in bf16 where the device is fast at it; LoRAs and patches of the MODEL act.

        Raises RuntimeError if another clone was loaded meanwhile: clones share their weights, patches and all.
        """
        if self._model.current_weight_patches_uuid != self._patcher.patches_uuid:
            raise RuntimeError("another clone of this MODEL was loaded while it was being erased from; open it again")
        self.evaluations += len(sigma)
        parts, places = [], []
        for rows_of_call, arguments in calls(conditioning):
            parts.append(self._predict(latents[rows_of_call], sigma[rows_of_call], arguments))
            places.append(rows_of_call)
        if not torch.is_grad_enabled():
            self.tell(evaluations=len(sigma))
        if len(parts) == 1:
            return parts[0]
        return torch.cat(parts)[torch.cat(places).argsort()]

    def _predict(self, latents: Tensor, sigma: Tensor, arguments: dict[str, Any]) -> Tensor:
        kinds = {True: comfy.conds.CONDRegular, False: comfy.conds.CONDConstant}
        conds = {name: kinds[torch.is_tensor(value)](value) for name, value in arguments.items()}
        # a new id: what a wrapper has cached under the id of another call is not for this one
        condition = {"model_conds": conds, "uuid": uuid4()}
        if "sample_sigmas" not in self._options["transformer_options"]:
            self.sigmas(SCHEDULE)
        with self._precision(), self._network_runs():
            (denoised,) = comfy.samplers.calc_cond_batch(self._model, [[condition]], latents, sigma, self._options)
        return prediction_of(latents, denoised.float(), sigma)

    @contextmanager
    def _network_runs(self) -> Iterator[None]:
        """Raise RuntimeError if the network's last block was not run inside. torch.compile runs blocks unseen."""
        ran: list[bool] = []
        if self._last_block is None:
            yield
            return
        watch = self._last_block.register_forward_pre_hook(lambda *_: ran.append(True))
        try:
            yield
        finally:
            watch.remove()
        if not ran:
            raise RuntimeError(
                "something on this MODEL answered in place of its network, as a cache that skips sampling steps does, and "
                "nothing can be learned from that. Link the MODEL as it is before that node, and put the node behind this one"
            )

    def lacks(self, need: str) -> str | None:
        """Why this model does not have one of `families.NEEDS`, or None if it has: also what depends on this ComfyUI,
        which is tried."""
        if need in self._facts.lacks or need not in self._facts.may_lack:
            return self._facts.lacks.get(need)
        empty = self.encode([""])
        tokens = empty.tokens.requires_grad_()
        latents = torch.ones_like(self.empty_latents(1))
        try:
            predicted = self.predict(latents, self.sigmas(2)[:1], Conditioning({**empty.values, TOKENS: tokens}))
            torch.autograd.grad(predicted.sum(), tokens)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            return f"{self._facts.may_lack[need]} ({str(error).splitlines()[0]})"
        return None

    @property
    def dtype(self) -> torch.dtype:
        """The type that the network computes in (see `ScaledAdam`)."""
        return torch.bfloat16 if self._is_fast_in_bf16() else self._model.get_dtype_inference()

    def _is_fast_in_bf16(self) -> bool:
        of_gpu = comfy.model_management.should_use_bf16
        return cpu_computes_in_bf16() if self.device.type == "cpu" else of_gpu(self.device)

    def _precision(self) -> AbstractContextManager:
        # bfloat16 before float16: it has the range of float32, so that gradients need no scaling (see `ScaledAdam`)
        return torch.autocast(self.device.type, torch.bfloat16) if self._is_fast_in_bf16() else nullcontext()

    @contextmanager
    def learning(self, text_as_it_is: bool = False) -> Iterator[None]:
        """See `Denoiser.learning`. On a GPU the memory for a second copy of the weights is rather left to the run."""
        network = self._model.diffusion_model
        with ExitStack() as once:
            if self._is_fast_in_bf16():
                if self._facts.is_unet and not text_as_it_is:
                    once.enter_context(text_cast_once(network, torch.bfloat16))
                if self.device.type == "cpu":
                    wanted = bytes_cast(network, torch.bfloat16)
                    if self.make_room(wanted) >= wanted:
                        once.enter_context(weights_cast_once(network, torch.bfloat16))
            yield

    def layers(self, group: str) -> dict[str, nn.Module]:
        """See `Denoiser.layers`."""
        modules = {name: module for name, module in self._model.diffusion_model.named_modules() if is_editable(module)}
        return {name: modules[name] for name in select(self.family, group, list(modules))}

    def rows(self, group: str) -> dict[str, slice]:
        """See `Denoiser.rows`."""
        shapes = {name: shape_of(layer) for name, layer in self.layers(group).items()}
        return rows(self.family, group, shapes)

    def modules(self) -> dict[str, nn.Module]:
        """See `Denoiser.modules`."""
        return dict(self._model.diffusion_model.named_modules())

    def blocks(self, kind: str) -> dict[str, nn.Module]:
        """See `Denoiser.blocks`."""
        modules = self.modules()
        return {name: modules[name] for name in blocks(self.family, kind, modules)}

    def make_room(self, wanted: int) -> int:
        """See `Denoiser.make_room`."""
        return make_room(self._patcher, wanted)

    def heads(self, attention: str) -> int:
        """See `Denoiser.heads`."""
        return self._model.diffusion_model.get_submodule(attention).heads

    def positions(self, prompt: str, phrase: str | None = None) -> list[int]:
        """See `Denoiser.positions`."""
        return positions(self._clip, prompt, phrase, self._facts.tokens_of)

    def token_vectors(self, texts: Sequence[str]) -> Tensor | None:
        """See `Denoiser.token_vectors`."""
        return token_vectors(self._clip, texts)

    def known_words(self) -> list[str]:
        """See `Denoiser.known_words`."""
        return whole_words(self._clip)

    def describe_prompt(self, prompt: str) -> str | None:
        """See `Denoiser.describe_prompt`."""
        states, empty = self.encode([prompt]).tokens, self.encode([""]).tokens
        if states.shape == empty.shape and torch.equal(states, empty):
            return "the text encoder sees nothing in it (only unknown tokens); write it in words it knows"
        return None

    @torch.no_grad()
    def latents_of(self, vae: Any, images: Tensor) -> Tensor:
        """Images (n, height, width, 3) in [0, 1], scaled and cropped to the run's size -> latents in model space."""
        scaled = comfy.utils.common_upscale(images.movedim(-1, 1), self._width, self._height, "bicubic", "center")
        latents = self._model.process_latent_in(vae.encode(scaled.movedim(1, -1)[..., :3]))
        load_fully(self._patcher)
        return latents.to(self.device).float().clone()

    @torch.no_grad()
    def picture(self, vae: Any, latents: Tensor) -> Tensor:
        """Latents in model space -> images (n, height, width, 3) in [0, 1]."""
        images = pictures_of(vae, self._model.process_latent_out(latents))
        load_fully(self._patcher)
        return images


def _sampling_options(patcher: comfy.model_patcher.ModelPatcher) -> dict[str, Any]:
    """The model options with which ComfyUI's guider would sample: the MODEL's own, its wrappers and callbacks."""
    options = comfy.model_patcher.create_model_options_clone(patcher.model_options)
    options.setdefault("transformer_options", {})
    comfy.sampler_helpers.prepare_model_patcher(patcher, {}, options)
    comfy.samplers.cast_to_load_options(options, device=patcher.load_device, dtype=patcher.model_dtype())
    return options
