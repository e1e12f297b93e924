"""The common steps of prefix attacks: pictures to aim at, a search for words, attempts with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..method import setting
from ..report import Report
from ..training.clean_latents import CleanLatents, noised
from ..training.trajectory import NoisyBatch
from .attack import Attack, Outcome, shoot
from .attacked_model import BASE, ERASED, AttackedModel, plain_prompts
from .token_search import Search, search
from .token_vocabulary import random_words, vocabulary

PICTURES, LEVELS, REPEATS = 8, 50, 4


@dataclass(frozen=True, kw_only=True)
class PrefixAttack(Attack):
    """An attack by words before the prompt; a subclass says what they are searched for."""

    words: int = setting(3, "Words in front of the prompt.", minimum=1, maximum=20)
    steps: int = setting(200, "Optimiser steps.", minimum=1, maximum=10000)
    learning_rate: float = setting(0.1, "Adam's step size.", minimum=1e-4, maximum=10.0, step=0.01, advanced=True)


def noisy_pictures(attack: Attack, attacked: AttackedModel) -> NoisyBatch:
    """The base model's pictures of the concept under fresh noise, several times each, with the exact prediction that leads
    back to them."""
    prompts = plain_prompts(attacked, PICTURES)
    shown = attacked.draw(BASE, prompts, attack.seeds(PICTURES, 0)).latents
    generator = attack.generator()
    with attacked.open_session(BASE) as denoiser:
        latents = shown.to(denoiser.device).float().clone()
        pictures = CleanLatents(latents, denoiser.encode(prompts))
        batches = [noised(denoiser, pictures, LEVELS, generator) for _ in range(REPEATS)]
    return NoisyBatch.cat(batches)


def prefix_attack(
    attack: PrefixAttack, attacked: AttackedModel, n: int, samples: NoisyBatch, how: Callable, report: Report
) -> Outcome:
    """Search words, draw n prompts with them in front, and n with as many random words (the control that a prefix needs:
    any words in front can break an edit that is keyed to a prompt)."""
    generator, settings = attack.generator(), Search(attack.words, attack.steps, attack.learning_rate)
    words, table = vocabulary(attacked)
    with attacked.open_session(ERASED) as denoiser:
        table = table.to(denoiser.device).clone()
        rows = search(attacked, denoiser, samples, table, how, settings, generator, report)
    prefix = " ".join(words[row] for row in rows)
    random = " ".join(random_words(attacked, len(rows), generator))
    report.check(f"{attack.name}: drawing with {prefix!r} in front")
    prompts = plain_prompts(attacked, n)
    shot = shoot(attacked, [f"{prefix} {prompt}" for prompt in prompts], attack.seeds(n))
    control = shoot(attacked, [f"{random} {prompt}" for prompt in prompts], attack.seeds(n, 2))
    return Outcome(shot, control, f"random words in front ({random!r})", f"{prefix} {prompts[0]}")
