"""How much a prompt speaks of a concept, from 0 to 1, judged by its text hidden states alone.

SPM (arXiv 2312.16145, its facilitated transport) and DuMo (arXiv 2501.01125) scale an edit by the larger of two signals:
the cosine of prompt and concept, and the share of the concept's tokens that the prompt says. At inference there are no
token ids, only hidden states, so the share is reconstructed: each of the concept's tokens is compared with the prompt's
state that is most like it. Raw cosines mean something else for every text encoder, so both signals are calibrated on
prompts that say the concept and on prompts that do not; the bounds are kept with the gate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from ..denoiser import Denoiser
from ..text.prompt_templates import draw_templates
from ..text.synonyms import template_words_like

SAYING, SILENT = 8, 16
OTHER_WORDS = ("tree", "house", "dog", "table", "river", "paper", "music", "car", "flower", "bread", "cloud", "king")
START, FULL = 0.5, 0.9  # of the way between prompts that are silent about the concept and prompts that say it


@dataclass(frozen=True)
class Gate:
    """One concept's gate; its fields are the tensors that a file keeps."""

    states: Tensor
    """(tokens, width): text states of the concept as a prompt"""
    empty: Tensor
    """(tokens, width): those of the empty prompt, from which prompts are told apart"""
    own: Tensor
    """(k, width): mean states of the concept's own tokens, over sentences that say it"""
    centre: Tensor
    """(width,): mean state of tokens in general"""
    bounds: Tensor
    """(2, 2): for the share of tokens and for the cosine, the value up to which the gate is closed, and that from which
    it is open"""

    def __call__(self, tokens: Tensor) -> Tensor:
        """Text states (n, any number of tokens, width) -> (n,) in [0, 1], float32, each row by itself."""
        tokens = tokens.detach().float()
        mine = self.to(tokens.device)
        signals = torch.stack([mine.token_share(tokens), mine.cosine(tokens)])
        closed, full = mine.bounds.T[..., None]
        # gamma of SPM's facilitated transport: the larger of the two calibrated signals
        return ((signals - closed) / (full - closed)).clamp(0, 1).amax(0)

    def token_share(self, tokens: Tensor) -> Tensor:
        """Mean over the concept's tokens of the cosine to the prompt's best matching state, centred."""
        wanted = F.normalize(self.own - self.centre, dim=-1)
        states = F.normalize(tokens - self.centre, dim=-1)
        return torch.einsum("kw,ntw->nkt", wanted, states).amax(-1).mean(-1)

    def cosine(self, tokens: Tensor) -> Tensor:
        """Cosine of the flattened states of prompt and concept, both without those of the empty prompt. Texts of
        different length are repeated to a common one."""
        length = math.lcm(tokens.shape[1], self.states.shape[0])

        def fitted(states: Tensor) -> Tensor:
            return states.repeat(1, length // states.shape[1], 1)

        empty = fitted(self.empty[None])
        concept = (fitted(self.states[None]) - empty).flatten(1)
        return F.cosine_similarity((fitted(tokens) - empty).flatten(1), concept, dim=1)

    def to(self, device: torch.device) -> Gate:
        """The same gate, its tensors float32 on a device."""
        return Gate(**{name: value.to(device, torch.float32) for name, value in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @staticmethod
    def read(parts: Mapping[str, Tensor], prefix: str) -> Gate:
        """The gate whose tensors are named `<prefix><field>`. Raises ValueError, naming it, if one is missing."""
        names = [field.name for field in fields(Gate)]
        for name in names:
            if f"{prefix}{name}" not in parts:
                raise ValueError(f"the erased UNet has no tensor {prefix}{name!r}; the file is damaged, save it again")
        return Gate(**{name: parts[f"{prefix}{name}"] for name in names})


@torch.no_grad()
def make_gate(denoiser: Denoiser, concept: str, retain: Sequence[str], generator: torch.Generator) -> Gate:
    """A gate that sentences about `concept` open, and that "", sentences without it and the retain lines leave closed.

    Between the two it is closed for the first half of the way, so that look-alikes, whose states are somewhat near, are
    left alone, and fully open from nine tenths, so that near synonyms open it. Raises ValueError if the text encoder
    does not tell the concept from what must stay.
    """
    avoid = template_words_like(denoiser, [concept])
    templates = draw_templates(concept, max(SAYING, SILENT), generator, avoid)
    saying = [template.with_concept(concept) for template in templates[:SAYING]]
    words = [word for word in OTHER_WORDS if word not in concept.casefold().split()]
    silent = [template.with_concept(words[i % len(words)]) for i, template in enumerate(templates[:SILENT])]
    retained = list(dict.fromkeys(["", *retain]))
    saying_states = denoiser.encode(saying).tokens.float()
    of_concept = [saying_states[i, denoiser.positions(prompt, concept)] for i, prompt in enumerate(saying)]
    own = torch.stack(of_concept).mean(0)
    silent_states = denoiser.encode(silent).tokens.float()
    centre = torch.cat([silent_states[i, denoiser.positions(prompt)] for i, prompt in enumerate(silent)]).mean(0)
    states, empty = denoiser.encode([concept]).tokens[0].float(), denoiser.encode([""]).tokens[0].float()
    gate = Gate(states, empty, own, centre, torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
    retained_states = denoiser.encode(retained).tokens.float()

    def bounds(signal: str, open_at: float | None) -> tuple[float, float]:
        measured = getattr(gate, signal)
        low = max(float(measured(silent_states).quantile(0.9)), float(measured(retained_states).max()))
        high = float(measured(saying_states).quantile(0.1)) if open_at is None else open_at
        if high - low < 1e-3:
            named = ", ".join(filter(None, retained)) or "sentences without it"
            raise ValueError(
                f"the text encoder does not tell {concept!r} from what is to be kept ({named}), so no text gate can. Name "
                f"the concept more exactly, take its synonyms out of the retained lines, or erase without a gate"
            )
        return low + START * (high - low), low + FULL * (high - low)

    # a sentence about the concept says much else, so only the token share is calibrated on such sentences
    calibrated = torch.tensor([bounds("token_share", None), bounds("cosine", 1.0)])
    return replace(gate, bounds=calibrated)
