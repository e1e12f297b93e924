"""Ring-A-Bell."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from ...evaluation.prompts import GAP
from ...method import setting
from ...report import Report
from ..attack import Attack, Outcome, shoot
from ..attacked_model import BASE, AttackedModel, SoftDenoiser
from ..token_vocabulary import other_words, random_words

KEPT = 4
"""A generation's parents: the best quarter, and never fewer than two."""


def as_long(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Both texts (n, tokens, width) with zeros behind the shorter one: not every text encoder fills prompts up."""
    missing = other.shape[1] - one.shape[1]
    return pad(one, (0, 0, 0, max(0, missing))), pad(other, (0, 0, 0, max(0, -missing)))


@dataclass(frozen=True, kw_only=True)
class RingABell(Attack):
    """Words, found by a genetic search in the text encoder alone, whose text comes near that of the prompt with the concept
    made stronger. The UNet is not asked."""

    name = "ring_a_bell"
    title = "Ring-A-Bell: words that read like the concept"
    paper = "Ring-A-Bell, arXiv 2310.10012"

    words: int = setting(6, "Words of the prompt that is searched.", minimum=1, maximum=60)
    eta: float = setting(3.0, "How much stronger the concept is made in the text.", minimum=0.0, maximum=20.0, step=0.5)
    population: int = setting(24, "Prompts of a generation.", minimum=4, maximum=1000)
    generations: int = setting(20, "Generations.", minimum=1, maximum=10000)
    mutation: float = setting(0.25, "Chance of each word to be changed.", minimum=0.0, maximum=1.0, advanced=True)

    def run(self, attacked: AttackedModel, n: int, report: Report) -> Outcome:
        """See `Attack.run`; the control is as many random words."""
        generator = self.generator()
        words = other_words(attacked)
        with attacked.open_session(BASE) as denoiser, torch.no_grad():
            prompt = self.search(denoiser, words, self.target(denoiser, attacked), generator, report)
        random = " ".join(random_words(attacked, self.words, generator))
        report.check(f"ring_a_bell: drawing {prompt!r}")
        attack = shoot(attacked, [prompt] * n, self.seeds(n))
        control = shoot(attacked, [random] * n, self.seeds(n, 2))
        return Outcome(attack, control, f"random words ({random!r})", prompt)

    def target(self, denoiser: SoftDenoiser, attacked: AttackedModel) -> Tensor:
        """The text to come near, (1, tokens, width): that of the prompt plus eta times the mean difference that the concept
        makes in the templates (equations 2 and 3)."""
        saying = [template.replace(GAP, attacked.concept) for template in attacked.templates]
        silent = [" ".join(template.replace(GAP, "").split()) for template in attacked.templates]
        with_concept, without = as_long(denoiser.encode(saying).tokens, denoiser.encode(silent).tokens)
        return with_concept[:1] + self.eta * (with_concept.mean(0) - without.mean(0))

    def search(
        self, denoiser: SoftDenoiser, words: list[str], target: Tensor, generator: torch.Generator, report: Report
    ) -> str:
        """The prompt with the least squared distance to the target that the search met (equation 4)."""

        def prompt(genes: Tensor) -> str:
            return " ".join(words[gene] for gene in genes.tolist())

        genes = torch.randint(len(words), (self.population, self.words), generator=generator)
        for generation in range(self.generations + 1):
            report.check(f"ring_a_bell: generation {generation} of {self.generations}")
            texts, wanted = as_long(denoiser.encode([prompt(one) for one in genes]).tokens, target)
            error = (texts - wanted).square().flatten(1).mean(1)
            genes = genes[error.argsort().cpu()]
            report.on_progress(generation, self.generations, float(error.min()))
            if generation < self.generations:
                genes = self._bred(genes, len(words), generator)
        return prompt(genes[0])

    def _bred(self, genes: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """The next generation: the best prompt as it is, and children of two parents with changed words."""
        parents = genes[: max(2, len(genes) // KEPT)]
        children = len(genes) - 1
        pair = torch.randint(len(parents), (2, children), generator=generator)
        crossed = torch.where(
            torch.rand(children, self.words, generator=generator) < 0.5, parents[pair[0]], parents[pair[1]]
        )
        fresh = torch.randint(count, crossed.shape, generator=generator)
        changed = torch.where(torch.rand(crossed.shape, generator=generator) < self.mutation, fresh, crossed)
        return torch.cat([genes[:1], changed])
