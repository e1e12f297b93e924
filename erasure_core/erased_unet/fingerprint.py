"""Whether two models are one checkpoint, whatever type their weights were cast to when they were loaded.

Rounding has no inverse, so that no hash is the same for a file in half precision and in fp8. A fingerprint therefore
carries values of some weights and how finely each is stored: of one checkpoint the values of two types lie within half
a step of the coarser one, and those of one type are equal. A merge or a finetune that moves weights by a hundredth moves
a tenth of them across such a step even in fp8.
"""

from __future__ import annotations

import base64
import hashlib
import math
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

SEPARATOR = ":"
VALUES = 8
MATRICES, VECTORS = 48, 16
"""Number of weights whose values are stored, those with the smallest hash of their name; matrices say more, for a LoRA that was
merged into a checkpoint leaves its norms and biases as they were."""
ENOUGH = 8
"""Weights that two fingerprints must have in common to be compared."""
_ENTRY = struct.Struct(f"<IBf{VALUES}e")
TYPES = {
    torch.float32: (24, -126),
    torch.float16: (11, -14),
    torch.bfloat16: (8, -126),
    torch.float8_e4m3fn: (4, -6),
    torch.float8_e5m2: (3, -14),
}
"""Significant bits and the smallest exponent; by place in this table a type is named in a fingerprint."""
_NAMES = list(TYPES)


@dataclass(frozen=True)
class Weight:
    """A weight as it is stored, and the scale that its numbers are multiplied with; None if it has many."""

    stored: Tensor
    scale: float | None = 1.0


def values_of(stored: Tensor) -> Tensor:
    """Values that lie evenly over a weight, at most `VALUES`, on the CPU."""
    flat = stored.detach().reshape(-1)
    return flat[:: max(1, flat.numel() // VALUES)][:VALUES].cpu()


def fingerprint_of(weights: Mapping[str, Weight]) -> str:
    """The fingerprint of a model's weights by name: 16 hex digits, a hash of values as they are stored, and behind the
    separator values of some of them in base64."""
    digest, found = hashlib.sha256(), {}
    for name, weight in sorted(weights.items()):
        values = values_of(weight.stored)
        digest.update(name.encode() + values.to(torch.float16).view(torch.int16).numpy().tobytes())
        if weight.stored.dtype in TYPES and weight.scale is not None:
            found[zlib.crc32(name.encode())] = (weight, values)
    packed = b""
    for wanted, is_matrix in ((MATRICES, True), (VECTORS, False)):
        of_kind = [key for key, (weight, _) in sorted(found.items()) if (weight.stored.ndim > 1) == is_matrix]
        for key in of_kind[:wanted]:
            weight, values = found[key]
            numbers = (values.float() * weight.scale).clamp(-65504, 65504).tolist()
            numbers += [0.0] * (VALUES - len(numbers))
            packed += _ENTRY.pack(key, _NAMES.index(weight.stored.dtype), weight.scale, *numbers)
    return f"{digest.hexdigest()[:16]}{SEPARATOR}{base64.b64encode(packed).decode()}"


def same_checkpoint(one: str, other: str) -> bool:
    """True if two fingerprints can be of one checkpoint. Those of files from before they carried values are equal only for
    weights of one type; what cannot be read is of no checkpoint."""
    if one.partition(SEPARATOR)[0] == other.partition(SEPARATOR)[0]:
        return True
    try:
        first, second = _entries(one), _entries(other)
    except (ValueError, struct.error, IndexError):
        return False
    both = first.keys() & second.keys()
    return len(both) >= ENOUGH and all(_agree(first[key], second[key]) for key in both)


def _entries(fingerprint: str) -> dict[int, tuple[torch.dtype, float, list[float]]]:
    packed = base64.b64decode(fingerprint.partition(SEPARATOR)[2], validate=True)
    return {key: (_NAMES[kind], scale, values) for key, kind, scale, *values in _ENTRY.iter_unpack(packed)}


def _agree(one: tuple[torch.dtype, float, list[float]], other: tuple[torch.dtype, float, list[float]]) -> bool:
    if one[:2] == other[:2]:
        return one[2] == other[2]
    bits = TYPES[torch.float16][0]  # how finely a fingerprint keeps values
    return all(
        abs(a - b) <= _half_step(a, *one[:2]) + _half_step(b, *other[:2]) + max(abs(a), abs(b)) * 2.0**-bits + 2.0**-24
        for a, b in zip(one[2], other[2], strict=True)
    )


def _half_step(value: float, dtype: torch.dtype, scale: float) -> float:
    """Half the distance between the numbers of that type around a value, which was itself rounded a little."""
    bits, smallest = TYPES[dtype]
    exponent = math.frexp(value * (1 + 2.0**-10) / scale)[1] - 1 if value and scale else smallest
    return abs(scale) * 2.0 ** (max(exponent, smallest) - bits)
