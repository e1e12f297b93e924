"""One checkpoint is known as itself in every type that it is loaded as, and other checkpoints are not taken for it."""

from __future__ import annotations

import hashlib
import itertools
import time

import pytest
import torch
from concept_erasure.erasure_core.erased_unet.fingerprint import (
    SEPARATOR,
    TYPES,
    Weight,
    fingerprint_of,
    same_checkpoint,
)

LAYERS, SIDE = 60, 32
FP8 = torch.float8_e4m3fn


def file(
    seed: int = 0, moved: float = 0.0, of: str = "", dtype: torch.dtype = torch.float16
) -> dict[str, torch.Tensor]:
    """A checkpoint's weights; `moved` is how far, relative to its size, a finetune moved those with `of` in their name."""
    random, other = (torch.Generator().manual_seed(number) for number in (seed, 99))
    found = {}
    for i in range(LAYERS):
        for name, shape in (
            (f"{i}.to_k.weight", (SIDE, SIDE)),
            (f"{i}.ff.weight", (SIDE, SIDE)),
            (f"{i}.norm.bias", (SIDE,)),
        ):
            value = torch.randn(shape, generator=random) * 0.05
            change = torch.randn(shape, generator=other) * 0.05 * moved
            found[name] = (value + (change if of in name else 0)).to(dtype)
    return found


def loaded(weights: dict[str, torch.Tensor], dtype: torch.dtype) -> str:
    """The fingerprint of a file loaded as that type."""
    return fingerprint_of({name: Weight(value.to(dtype)) for name, value in weights.items()})


def scaled(weights: dict[str, torch.Tensor]) -> str:
    """The fingerprint of its scaled fp8 form: matrices in fp8 with one scale, the rest as it is."""
    found = {}
    for name, value in weights.items():
        scale = float(value.float().abs().amax()) / 448
        whole = value.ndim == 1
        found[name] = Weight(value) if whole else Weight((value.float() / scale).to(FP8), scale)
    return fingerprint_of(found)


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float32])
def test_a_file_is_the_same_in_every_type(stored: torch.dtype) -> None:
    weights = file(dtype=stored)
    every = {str(dtype): loaded(weights, dtype) for dtype in TYPES} | {"scaled": scaled(weights)}
    for one, other in itertools.product(every, repeat=2):
        assert same_checkpoint(every[one], every[other]), (one, other)


@pytest.mark.parametrize(("moved", "of"), [(0.02, ""), (0.05, "to_k")])
@pytest.mark.parametrize("seed", range(5))
def test_a_finetune_and_a_merged_lora_are_other_checkpoints_in_every_type(moved: float, of: str, seed: int) -> None:
    forms = []
    for weights in (file(seed), file(seed, moved, of), file(seed + 1)):
        forms.append({str(dtype): loaded(weights, dtype) for dtype in (torch.float16, torch.bfloat16, FP8)})
        forms[-1]["scaled"] = scaled(weights)
    base, *others = forms
    for other in others:
        for one, two in itertools.product(base, other):
            assert not same_checkpoint(base[one], other[two]), (one, two)


def test_the_fingerprint_of_older_files_is_the_hash_that_it_was() -> None:
    weights = file()
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        flat = value.reshape(-1)
        some = flat[:: max(1, flat.numel() // 8)][:8].to(device="cpu", dtype=torch.float16)
        digest.update(name.encode() + some.view(torch.int16).numpy().tobytes())
    old, new = digest.hexdigest()[:16], loaded(weights, torch.float16)
    assert new.partition(SEPARATOR)[0] == old and same_checkpoint(old, new) and same_checkpoint(new, old)
    assert not same_checkpoint(old, loaded(weights, FP8)) and not same_checkpoint(old, loaded(file(1), torch.float16))
    assert len(new) < 3000


@pytest.mark.parametrize("foreign", ["", "0", "0:", "0:????", "0:AAAA", "0:" + "AAAA" * 25, "x:ü"])
def test_what_is_no_fingerprint_is_of_no_checkpoint(foreign: str) -> None:
    assert not same_checkpoint(foreign, loaded(file(), FP8)) and not same_checkpoint(loaded(file(), FP8), foreign)


def test_it_is_quick() -> None:
    weight = Weight(torch.zeros(4096, 4096, dtype=torch.float16))
    weights = {f"{i}.weight": weight for i in range(2000)}  # as many and as large as Flux has
    started = time.monotonic()
    assert same_checkpoint(fingerprint_of(weights), fingerprint_of(weights))
    assert time.monotonic() - started < 5
