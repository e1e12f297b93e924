"""A second encoder for a UNet's skips: the network's own with deltas, zero convolutions, a scale a noise level and skip."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from ..denoiser import Denoiser
from ..guidance import per_sample
from ..inference import Forward, ModelCall, changed
from ..training.deltas import Deltas
from ..training.trajectory import NoisyBatch
from .gate import Gate
from .low_rank import CastCache, by_concept, low_rank_changes, low_rank_tensors
from .skips import added_to_skips, encoder_layers, in_side_pass, skip_features

LORA = "lora."
_SKIP = re.compile(r"skip\.(\d+)\.(.+)\.to\.(.+)\.weight")


def one_by_one(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A 1x1 convolution over any number of dimensions: x (n, c, ...), weight (d, c), bias (d,) -> (n, d, ...)."""
    return torch.einsum("dc,nc...->nd...", weight, x) + bias.reshape(-1, *[1] * (x.ndim - 2))


def bin_edges(sigmas: Tensor, bins: int) -> Tensor:
    """bins - 1 noise levels, rising, that part those of a sampling run (falling, the last one 0) evenly by number."""
    rising = sigmas.detach().float().cpu()[:-1].flip(0)
    places = torch.linspace(0, len(rising), bins + 1)[1:-1]
    upper = places.round().long().clamp(1, len(rising) - 1)
    return (rising[upper - 1] + rising[upper]) / 2


def scales_at(sigma: Tensor, edges: Tensor, scales: Tensor) -> Tensor:
    """The scales (n, skips) of samples at noise levels sigma (n,): by the level itself, never by counting calls, for a
    sampler may call the network more than once a step. scales: (bins, skips)."""
    return scales[torch.bucketize(sigma.detach().float().to(edges.device), edges).to(scales.device)]


class SideEncoder(Deltas):
    """The trainable side encoder of one concept; with `only_scales`, only its scales are trained. At first its residuals
    are zero and its scales one."""

    def __init__(self, denoiser: Denoiser, rank: int, bins: int, levels: int, generator: torch.Generator) -> None:
        super().__init__(encoder_layers(denoiser), rank, generator)
        self._denoiser = denoiser
        self._encoder, self._decoder = denoiser.blocks("encoder"), denoiser.blocks("decoder")
        self.only_scales = False
        latents, text = denoiser.empty_latents(1), denoiser.encode([""])
        sigma = denoiser.sigmas(levels)[:1].to(denoiser.device)
        with torch.no_grad():
            features = skip_features(self._encoder, lambda: denoiser.predict(latents, sigma, text))
        widths = [feature.shape[1] for feature in features]
        self._weights = [nn.Parameter(torch.zeros(c, c, device=denoiser.device)) for c in widths]
        self._biases = [nn.Parameter(torch.zeros(c, device=denoiser.device)) for c in widths]
        self._edges = bin_edges(denoiser.sigmas(max(levels, bins)), bins).to(denoiser.device)
        self._scales = nn.Parameter(torch.ones(bins, len(widths), device=denoiser.device))

    def parameters(self) -> list[nn.Parameter]:
        """The tensors that are trained in this phase."""
        return [self._scales] if self.only_scales else [*super().parameters(), *self._weights, *self._biases]

    def is_zero(self) -> bool:
        """True if no residual can be other than zero."""
        return not any(bool(value.any()) for value in (*self._weights, *self._biases))

    def residuals(self, batch: NoisyBatch) -> tuple[list[Tensor], list[Tensor]]:
        """The side encoder's features and its scaled residuals for a batch, in the encoder's order, with gradient."""
        with self.attached():
            features = skip_features(self._encoder, lambda: self._call(batch))
        scales = scales_at(batch.sigma, self._edges, self._scales)
        residuals = []
        for i, feature in enumerate(features):
            residual = one_by_one(feature, self._weights[i].to(feature.dtype), self._biases[i].to(feature.dtype))
            residuals.append(residual * per_sample(scales[:, i], residual))
        return features, residuals

    def predict(self, batch: NoisyBatch, residuals: list[Tensor]) -> Tensor:
        """The frozen network's prediction with these residuals on its skips."""
        with added_to_skips(self._decoder, residuals):
            return self._call(batch)

    def _call(self, batch: NoisyBatch) -> Tensor:
        return self._denoiser.predict(batch.latents, batch.sigma, batch.conditioning)

    def tensors(self) -> dict[str, Tensor]:
        """All that inference needs, by name; the names of the skips say from which block to which."""
        tensors = {f"{LORA}{name}": value for name, value in low_rank_tensors(self.export()).items()}
        tensors |= {"edges": self._edges, "scales": self._scales.detach()}
        pairs = zip(self._encoder, reversed(self._decoder), strict=True)
        for i, (encoder, decoder) in enumerate(pairs):
            tensors[f"skip.{i}.{encoder}.to.{decoder}.weight"] = self._weights[i].detach()
            tensors[f"skip.{i}.{encoder}.to.{decoder}.bias"] = self._biases[i].detach()
        return tensors


class _OneConcept:
    """One side encoder as the file holds it."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.gate = Gate.read(tensors, "gate.")
        self.edges, self.scales = tensors["edges"].float(), tensors["scales"].float()
        self.deltas = CastCache({k.removeprefix(LORA): v for k, v in tensors.items() if k.startswith(LORA)})
        matches = [found for found in map(_SKIP.fullmatch, tensors) if found]
        matches.sort(key=lambda found: int(found[1]))
        self.encoder, self.decoder = [found[2] for found in matches], [found[3] for found in matches]
        self.skips = [found[0].removesuffix(".weight") for found in matches]
        self.convolutions = CastCache({k: v for k, v in tensors.items() if k.startswith("skip.")})

    def named(self, modules: Mapping[str, nn.Module], names: list[str]) -> dict[str, nn.Module]:
        """The modules of these names, `encoder` or `decoder`, in the encoder's order. Raises ValueError for a network that
        lacks one."""
        missing = [name for name in names if name not in modules]
        if missing:
            raise ValueError(
                f"this MODEL has no block {missing[0]!r} that the erased UNet corrects; load the kind of model it was "
                f"made for"
            )
        return {name: modules[name] for name in names}

    def residuals(self, features: list[Tensor], sigma: Tensor, gates: Tensor) -> list[Tensor]:
        """The residuals of the skips, each row at its gate and its noise level's scale."""
        scales = scales_at(sigma, self.edges.to(sigma.device), self.scales.to(sigma.device)) * gates[:, None]
        residuals = []
        for i, (feature, name) in enumerate(zip(features, self.skips, strict=True)):
            weight, bias = (self.convolutions.like(f"{name}.{part}", feature) for part in ("weight", "bias"))
            residual = one_by_one(feature, weight, bias)
            residuals.append(residual * per_sample(scales[:, i].to(residual.dtype), residual))
        return residuals


class SkipCorrections:
    """`inference.InferenceEdit` of side encoders: one side pass a concept that is spoken of, then the frozen network."""

    def __init__(self, parts: Mapping[str, Tensor]) -> None:
        self._concepts = [_OneConcept(tensors) for tensors in by_concept(parts)]

    def __call__(self, modules: Mapping[str, nn.Module], call: ModelCall, forward: Forward, strength: float) -> Tensor:
        """See `InferenceEdit`. A call in which every gate is closed is the frozen network's, bit for bit; so is one without
        a prompt, which says nothing of a concept."""
        if in_side_pass() or call.tokens is None:
            return forward(call.tokens)
        with ExitStack() as stack:
            for context in self._corrections(modules, call.sigma, call.tokens, forward, strength):
                stack.enter_context(context())
            return forward(call.tokens)

    def _corrections(
        self, modules: Mapping[str, nn.Module], sigma: Tensor, tokens: Tensor, forward: Forward, strength: float
    ) -> list[Callable]:
        """A context for each concept that is spoken of; all side passes are run before any context is entered."""
        corrections = []
        for concept in self._concepts:
            gates = strength * concept.gate(tokens)
            if not bool(gates.any()):
                continue
            with changed(low_rank_changes(modules, concept.deltas)):
                features = skip_features(concept.named(modules, concept.encoder), lambda: forward(tokens))
            residuals = concept.residuals(features, sigma, gates)
            decoder = dict(reversed(concept.named(modules, concept.decoder).items()))  # it reads the last skip first
            corrections.append(lambda decoder=decoder, residuals=residuals: added_to_skips(decoder, residuals))
        return corrections
