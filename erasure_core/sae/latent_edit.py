"""An edit of a few latents of sparse autoencoders, around one call of the network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor, nn

from ..inference import Forward, ModelCall, changed
from .autoencoder import ConceptSAE


@dataclass(frozen=True)
class SelectedLatents:
    """The selected latents of one block's autoencoder, the rows of `encoder` and `decoder` (n, d) and `bias` (n,).
    `factor` and `gate` (levels, n) say, at each of the `sigmas` (levels,), what a latent is multiplied by (1 where it is
    not chosen) and how strongly it must fire for that."""

    encoder: Tensor
    bias: Tensor
    decoder: Tensor
    factor: Tensor
    gate: Tensor
    sigmas: Tensor

    @staticmethod
    def of(sae: ConceptSAE, factor: Tensor, gate: Tensor, sigmas: Tensor) -> SelectedLatents | None:
        """The latents of `sae` whose factor (levels, all latents) is not 1 at some level; None if there is none. Their gate
        is at least the autoencoder's own threshold."""
        ids = (factor != 1).any(0).nonzero().squeeze(1)
        if not len(ids):
            return None
        bias = sae.encoder_bias - sae.encoder @ sae.decoder_bias  # W (x - b_dec) + b = W x + (b - W b_dec)
        encoder, bias, decoder = (tensor.cpu()[ids] for tensor in (sae.encoder, bias, sae.decoder))
        gate = gate[:, ids].clamp_min(max(sae.threshold, 0.0))
        return SelectedLatents(encoder, bias, decoder, factor[:, ids], gate, sigmas)

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by name, on the CPU and contiguous as a file wants them."""
        return {part.name: getattr(self, part.name).cpu().contiguous() for part in fields(self)}

    def at(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Factor and gate (m, n) at the nearest level, on a logarithmic scale, of each of the noise levels (m,)."""
        levels, asked = (x.float().clamp_min(1e-4).log() for x in (self.sigmas, sigma.to(self.sigmas.device)))
        nearest = (asked[:, None] - levels[None]).abs().argmin(1)
        return self.factor[nearest], self.gate[nearest]

    def edit(self, x: Tensor, sigma: Tensor, strength: float = 1.0) -> Tensor:
        """x + strength (f' - f) W_dec for x (m, d, ...) at noise levels sigma (m,); exactly x where nothing fires."""
        factor, gate = self.at(sigma)
        with torch.autocast(x.device.type, enabled=False):
            vectors = x.float().flatten(2).transpose(1, 2)
            pre = vectors @ self.encoder.T + self.bias
            latents = torch.where(pre > gate[:, None], pre, torch.zeros_like(pre))
            change = strength * ((factor - 1)[:, None] * latents) @ self.decoder
        return x + change.transpose(1, 2).reshape(x.shape).to(x.dtype)


@dataclass
class LatentEdits:
    """An `InferenceEdit`: the selected SAE latents of each block, keyed by block name; the tensors follow the model's
    device. Rows of the negative prompt, where they are known, are left alone unless `both_halves`."""

    chosen: dict[str, SelectedLatents]
    both_halves: bool
    _moved: dict[tuple[str, torch.device], SelectedLatents] = field(default_factory=dict, repr=False)

    @staticmethod
    def read(parts: Mapping[str, Tensor], both_halves: bool) -> LatentEdits:
        """From the parts of a file, `<block>.<name>` as `SelectedLatents.tensors` names them."""
        blocks: dict[str, dict[str, Tensor]] = {}
        for key, value in parts.items():
            block, name = key.rsplit(".", 1)
            blocks.setdefault(block, {})[name] = value.float()
        return LatentEdits({block: SelectedLatents(**tensors) for block, tensors in blocks.items()}, both_halves)

    def __call__(self, modules: Mapping[str, nn.Module], call: ModelCall, forward: Forward, strength: float) -> Tensor:
        """See `InferenceEdit`. Raises ValueError if the network lacks one of the blocks."""
        rows = torch.ones_like(call.positive) if self.both_halves else call.positive
        if not bool(rows.any()):
            return forward(call.tokens)
        missing = [block for block in self.chosen if block not in modules]
        if missing:
            raise ValueError(
                f"this MODEL has no block {missing[0]!r}; apply the edit to the kind of model it was made for"
            )

        def change(block: str) -> Callable[[tuple, Tensor], Tensor]:
            def edited(_given: tuple, x: Tensor) -> Tensor:
                here = self._on(block, x.device)
                out = x.clone()
                out[rows] = here.edit(x[rows], call.sigma[rows], strength)
                return out

            return edited

        with changed({modules[block]: change(block) for block in self.chosen}):
            return forward(call.tokens)

    def _on(self, block: str, device: torch.device) -> SelectedLatents:
        """Moved once, and fit to be saved by autograd: a file is read under inference mode, and somebody may train
        through the edit."""
        if (block, device) not in self._moved:
            here = self.chosen[block]
            with torch.inference_mode(False), torch.no_grad():
                tensors = {part.name: getattr(here, part.name).to(device).clone() for part in fields(here)}
            self._moved[block, device] = SelectedLatents(**tensors)
        return self._moved[block, device]


def listed_latents(top: Tensor, score: Tensor, most: int = 8) -> str:
    """The latents by their summed score, the highest first, with the number of levels at which each is chosen."""
    counts, total = top.sum(0), (score * top).sum(0)
    order = [int(i) for i in total.argsort(descending=True) if counts[i]]
    if not order:
        return "none"
    named = ", ".join(f"{i} ({int(counts[i])} of {len(top)} levels)" for i in order[:most])
    return named + (f" and {len(order) - most} more" if len(order) > most else "")
