"""The text encoder, whose answers are cached on disk under everything that decides them."""

from __future__ import annotations

import hashlib
import numbers
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import comfy.sd
import folder_paths
import torch
from torch import Tensor, nn

from .tensor_cache import TensorCache

CACHE_SETTING = "CONCEPT_ERASURE_TEXT_CACHE"
"""Environment variable: another folder for the cache, or `off`."""
_PROBE = "an old photo of two small, brightly painted wooden boats"
_ROWS_AT_ONCE = 4096
TEXTS_AT_ONCE = 16
"""Prompts that a CLIP encodes in one pass, where it can: its weights are read once for all of them."""
_STATES_ONLY = ("l", "h")
"""The text encoders of which SD 1.x and 2.x have one alone. Those models read its states and no pooled text, which the host
gives for the first prompt of a pass only."""
_STATES, _IN_HALF = "cond", "cond in half precision"


def text_cache() -> TensorCache | None:
    """The cache in ComfyUI's user directory, or where `CACHE_SETTING` says; None if it says `off`."""
    chosen = os.environ.get(CACHE_SETTING, "")
    if chosen.casefold() == "off":
        return None
    default = Path(folder_paths.get_system_user_directory("concept_erasure")) / "encoded_text"
    return TensorCache(Path(chosen) if chosen else default)


class TextEncoder:
    """A CLIP whose answers are read from `cache` where it gave them before, in this run of ComfyUI or another.

    Text states are rounded to half precision (`rounded`), which halves what is kept and is what a half-precision model
    reads of them anyway; whether they were read or encoded makes no difference. `encoded` and `read` count the prompts
    that the CLIP encoded and those that were read.
    """

    def __init__(self, clip: comfy.sd.CLIP, cache: TensorCache | None) -> None:
        self._clip, self._cache = clip, cache
        self._fingerprint: str | None = None
        self.encoded = self.read = 0

    def __call__(self, prompts: Sequence[Any]) -> list[list[Any]]:
        """The text states of the prompts of one of `passes`, each given by its tokens as the CLIP's `tokenize` has them, and
        what else the CLIP gives with them, as ComfyUI's CONDITIONING holds them; of SD 1.x and 2.x the states alone."""
        answers: list[Any] = [self._read(tokens) for tokens in prompts]
        missing = [i for i, answer in enumerate(answers) if answer is None]
        for i, answer in zip(missing, self._answers([prompts[i] for i in missing]), strict=True):
            answers[i] = answer
            self._keep(prompts[i], answer)
        return answers

    def _answers(self, prompts: Sequence[Any]) -> list[list[Any]]:
        """What the CLIP says of the prompts, in one pass; nothing without any."""
        if not prompts:
            return []
        if not _states_only(prompts[0]):
            (tokens,) = prompts
            states, others = self._encode(tokens)
            return [[rounded(states) if _only_numbers(tokens) else states, others]]
        (name,) = prompts[0]
        # the host lays the sections of a long prompt side by side; here each is a prompt of its own
        states, _ = self._encode({name: [section for tokens in prompts for section in tokens[name]]}, len(prompts))
        return [[rounded(part), {"pooled_output": None}] for part in states.chunk(len(prompts), dim=1)]

    def _encode(self, tokens: Any, prompts: int = 1) -> Any:
        self.encoded += prompts
        return self._clip.encode_from_tokens_scheduled(tokens, show_pbar=False)[0]

    def _key(self, tokens: Any) -> str:
        if self._fingerprint is None:
            self._fingerprint = self._behaviour()
        return f"{self._fingerprint} {_IN_HALF} {tokens!r}"

    def _read(self, tokens: Any) -> list[Any] | None:
        """The answer for one prompt from the cache."""
        if self._cache is None or not _only_numbers(tokens):
            return None
        found = self._cache.get(self._key(tokens))
        if found is None:
            return None
        self.read += 1
        return _from_tensors(found)

    def _keep(self, tokens: Any, answer: list[Any]) -> None:
        tensors = _as_tensors(*answer)
        if self._cache is not None and _only_numbers(tokens) and all(map(torch.is_tensor, tensors.values())):
            self._cache.put(self._key(tokens), tensors)

    def _behaviour(self) -> str:
        """A hash of what this CLIP does: its exact answer to one prompt, and its table of tokens, of which that answer
        sees a few rows only.

        Another weight, LoRA, clip skip, type or device shows in the answer, to the last bit. Computed anew for every
        run, because nothing tells that a CLIP is still what it was.
        """
        digest = hashlib.sha256()
        states, others = self._encode(self._clip.tokenize(_PROBE))
        for name, value in sorted((others | {_STATES: states}).items()):
            digest.update(name.encode() + (_bytes(value) if torch.is_tensor(value) else repr(value).encode()))
        for name, module in self._clip.cond_stage_model.named_modules():
            if isinstance(module, nn.Embedding):
                sums = torch.cat([rows.float().sum(1) for rows in module.weight.detach().split(_ROWS_AT_ONCE)])
                digest.update(name.encode() + _bytes(sums))
        return digest.hexdigest()


def _as_tensors(states: Tensor, others: dict[str, Any]) -> dict[str, Any]:
    """An answer of the CLIP as a file of the cache holds it: half the size, if that loses nothing."""
    halved = states.half()
    fits = states.dtype == torch.float32 and torch.equal(halved.float(), states)
    given = {name: value for name, value in others.items() if value is not None}
    return given | ({_IN_HALF: halved} if fits else {_STATES: states})


def _from_tensors(found: dict[str, Tensor]) -> list[Any]:
    states = found.pop(_IN_HALF).float() if _IN_HALF in found else found.pop(_STATES)
    return [states, {"pooled_output": None} | found]  # a None is no tensor and was left out


def rounded(states: Tensor) -> Tensor:
    """Float32 numbers as half precision has them, as float32: off by at most 2^-11 of each, or 2^-25 where that is more.
    What is of another type, or too large for half precision, is left as it is."""
    halved = states.half()
    return halved.float() if states.dtype == torch.float32 and bool(halved.isfinite().all()) else states


def _bytes(value: Tensor) -> bytes:
    return value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def passes(prompts: Sequence[Any]) -> list[list[int]]:
    """Which of the prompts, given by their tokens, the CLIP encodes together, by their places: of SD 1.x and 2.x
    `TEXTS_AT_ONCE`, and any other alone."""
    together = [i for i, tokens in enumerate(prompts) if _states_only(tokens)]
    parts = [together[start : start + TEXTS_AT_ONCE] for start in range(0, len(together), TEXTS_AT_ONCE)]
    return [*parts, *([i] for i, tokens in enumerate(prompts) if not _states_only(tokens))]


def _states_only(tokens: Any) -> bool:
    """Whether this prompt may share a pass with others: one section of numbers for one of `_STATES_ONLY`."""
    if not isinstance(tokens, dict) or len(tokens) != 1:
        return False
    ((name, sections),) = tokens.items()
    return name in _STATES_ONLY and len(sections) == 1 and _only_numbers(tokens)


def _only_numbers(tokens: Any) -> bool:
    """False if part of the prompt is a textual inversion: its file may be another one the next time."""
    if isinstance(tokens, dict):
        return all(_only_numbers(part) for part in tokens.values())
    return isinstance(tokens, (list, tuple)) and all(
        isinstance(entry[0], numbers.Integral) for section in tokens for entry in section
    )
