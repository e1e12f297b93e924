"""A sparse autoencoder of the outputs of one block of the network, and its file.

pre(x) = ReLU(W_enc (x - b_dec) + b_enc),  f = pre where pre > threshold, else 0,  xhat = f W_dec + b_dec,
for x at one position of the picture; SAeUron, arXiv 2501.18052, with the threshold of BatchTopK (arXiv 2412.06410):
trained so that k latents fire on average, each fires or not without asking the others. So an edit of a few latents
needs only these, and gives exactly what the whole autoencoder would.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..files import check_type, check_version, packed, read_tensors, write_whole
from ..layers import PLAIN

METADATA_KEY = "concept_sae"
FORMAT_VERSION = 1
_TENSORS = ("encoder", "encoder_bias", "decoder", "decoder_bias")
_CHUNK, _MEASURED = 4096, 32768


@dataclass(frozen=True)
class ConceptSAE:
    """Tensors in the units of the block's output, and where they come from.

    `encoder` and `decoder` are (latents, d_in), a row a latent, the decoder's of length 1; `encoder_bias` (latents,);
    `decoder_bias` (d_in,). `training` holds the settings and figures of the training, plain JSON values.
    """

    encoder: Tensor
    encoder_bias: Tensor
    decoder: Tensor
    decoder_bias: Tensor
    threshold: float
    block: str
    k: int
    family: str = ""
    fingerprint: str = ""
    training: Mapping[str, Any] = field(default_factory=dict)

    @property
    def latents(self) -> int:
        """Number of latents."""
        return self.encoder.shape[0]

    @property
    def d_in(self) -> int:
        """Channels of the block's output."""
        return self.encoder.shape[1]

    def encode(self, x: Tensor) -> Tensor:
        """Vectors (..., d_in) -> latents (..., latents), zero where they do not fire."""
        pre = x @ self.encoder.T + (self.encoder_bias - self.encoder @ self.decoder_bias)
        return torch.where(pre > max(self.threshold, 0.0), pre, torch.zeros_like(pre))

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (..., latents) -> vectors (..., d_in)."""
        return latents @ self.decoder + self.decoder_bias

    def to(self, device: torch.device) -> ConceptSAE:
        """The same with its tensors on a device, in float32."""
        moved = {name: getattr(self, name).to(device, torch.float32) for name in _TENSORS}
        return ConceptSAE(**moved, **{name: getattr(self, name) for name in _facts(self)})

    def measured(self, data: Tensor) -> tuple[float, float, float]:
        """On some of the vectors (n, d_in): the FVU, how many latents fire on average, and the share that never does."""
        data = data[:: max(1, len(data) // _MEASURED)]
        centre, error, variance, fired = data.float().mean(0), 0.0, 0.0, torch.zeros(self.latents, device=data.device)
        for x in data.split(_CHUNK):
            x = x.float()
            latents = self.encode(x)
            error += float((x - self.decode(latents)).square().sum())
            variance += float((x - centre).square().sum())
            fired += (latents > 0).sum(0)
        return error / max(variance, 1e-12), float(fired.sum()) / len(data), float((fired == 0).float().mean())


def _facts(sae: ConceptSAE) -> list[str]:
    return [name for name in sae.__dataclass_fields__ if name not in _TENSORS]


def fvu(x: Tensor, reconstruction: Tensor) -> Tensor:
    """Fraction of variance unexplained, sum |x - xhat|^2 / sum |x - mean(x)|^2 over vectors (n, d)."""
    return (x - reconstruction).square().sum() / (x - x.mean(0)).square().sum().clamp_min(1e-12)


def default_block(names: Sequence[str]) -> str:
    """Of a UNet's transformer blocks in the order in which they are run, the one a little past the middle: in SD 1.5,
    with 16, `output_blocks.4.1`, which is SAeUron's `up_blocks.1.attentions.1`."""
    return list(names)[round(8 / 15 * (len(names) - 1))]


def packed_sae(sae: ConceptSAE) -> bytes:
    """The autoencoder as the bytes of a `.safetensors` file."""
    facts = {name: getattr(sae, name) for name in _facts(sae)} | {"format_version": FORMAT_VERSION}
    facts["training"] = dict(sae.training)
    tensors = {name: getattr(sae, name) for name in _TENSORS}
    return packed(tensors, {METADATA_KEY: json.dumps(facts, sort_keys=True)})


def save_sae(sae: ConceptSAE, path: Path) -> None:
    """Write one `.safetensors` file in one step. Raises OSError as `files.write_whole` does."""
    write_whole(path, packed_sae(sae))


def load_sae(path: Path) -> ConceptSAE:
    """Read and check a file. Raises ValueError, naming the file and what is wrong, if it is truncated, is no such
    autoencoder, was written by a newer version, or its tensors or facts are not those of one."""
    tensors, metadata = read_tensors(path)
    if METADATA_KEY not in metadata:
        raise ValueError(
            f"{path} is no concept SAE: its metadata has no {METADATA_KEY!r} entry. Train one with Train Concept SAE"
        )
    try:
        facts = json.loads(metadata[METADATA_KEY])
        _check_facts(facts)
        _check_tensors(tensors)
    except (KeyError, ValueError, RecursionError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else error
        raise ValueError(
            f"{path}: its concept SAE cannot be read: {reason}; get the original file or train anew"
        ) from error
    known = {name: facts[name] for name in ConceptSAE.__dataclass_fields__ if name in facts}
    return ConceptSAE(**tensors, **known)


def _check_facts(facts: Any) -> None:
    """Raise KeyError or ValueError, naming it, for a fact that is missing or of another type."""
    check_type("text", facts, dict, "an object of fields")
    check_version(facts, FORMAT_VERSION)
    check_type("threshold", facts["threshold"], (int, float), "a number")
    check_type("k", facts["k"], int, "a whole number")
    if not math.isfinite(facts["threshold"]) or facts["k"] < 1:
        raise ValueError(
            f"its threshold is {facts['threshold']} and its k {facts['k']}; both should be finite, k from 1"
        )
    check_type("block", facts["block"], str, "the name of a block")
    for name, kind in (("family", str), ("fingerprint", str), ("training", dict)):
        check_type(name, facts.get(name, kind()), kind, "a text" if kind is str else "figures by name")


def _check_tensors(tensors: Mapping[str, Tensor]) -> None:
    """Raise KeyError or ValueError, naming the tensor, unless these are an autoencoder's."""
    n, d = shape = tuple(tensors["encoder"].shape) if tensors["encoder"].ndim == 2 else (0, 0)
    shapes = {"encoder": shape, "encoder_bias": (n,), "decoder": shape, "decoder_bias": (d,)}
    if not n or not d:
        raise ValueError(f"encoder has shape {tuple(tensors['encoder'].shape)}, and should have (latents, channels)")
    for name in set(tensors) - set(shapes):
        raise ValueError(f"unknown tensor {name!r}")
    for name, expected in shapes.items():
        value = tensors[name]
        if tuple(value.shape) != expected:
            raise ValueError(f"{name} has shape {tuple(value.shape)}, the encoder wants {expected}")
        if value.dtype not in PLAIN or not bool(value.isfinite().all()):
            raise ValueError(
                f"{name} is of type {value.dtype} or holds NaN or infinity; it should be finite, in float32"
            )


def mean_activity(sae: ConceptSAE, vectors: Tensor) -> Tensor:
    """How strongly each latent fires in the mean over positions, for vectors (levels, pictures, positions, d): (levels,
    pictures, latents)."""
    # a picture at a time: an SAE may have tens of thousands of latents
    return torch.stack([torch.stack([sae.encode(x.float()).mean(0) for x in level]) for level in vectors])


def concept_score(target: Tensor, other: Tensor) -> Tensor:
    """score(i,t,c) of the paper from mean activities (levels, latents), of the target's and of the other sentences."""
    return target / (target.sum(1, keepdim=True) + 1e-8) - other / (other.sum(1, keepdim=True) + 1e-8)


def selected(score: Tensor, n: int, eligible: Tensor) -> Tensor:
    """At each level the n eligible latents with the highest scores, if these are above zero; bool, of the score's shape.

    The score alone prefers latents that fire strongly everywhere: a small share more of a large activity outweighs all
    that a latent of the target's own does.
    """
    score = score.masked_fill(~eligible, 0.0)
    top = torch.zeros_like(score, dtype=torch.bool)
    top.scatter_(1, score.topk(min(n, score.shape[1]), dim=1).indices, True)
    return top & (score > 0)
