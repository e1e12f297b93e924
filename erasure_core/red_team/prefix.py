"""What attacks by a prefix have alike: pictures to aim at, a search for words, attempts with them."""

from __future__ import annotations

from collections.abc import Callable

from ..pictures import Pictures, noised
from ..report import Report
from ..trajectory import NoisyBatch
from .attack import Attack, Outcome, shoot
from .subject import BASE, ERASED, Subject, plain_prompts
from .token_search import Search, search
from .words import random_words, vocabulary

PICTURES, LEVELS, REPEATS = 8, 50, 4


def noisy_pictures(attack: Attack, subject: Subject) -> NoisyBatch:
    """The base model's pictures of the concept under fresh noise, several times each, with the exact prediction that leads
    back to them."""
    prompts = plain_prompts(subject, PICTURES)
    shown = subject.draw(BASE, prompts, attack.seeds(PICTURES, 0)).latents
    generator = attack.generator()
    with subject.opened(BASE) as denoiser:
        latents = shown.to(denoiser.device).float().clone()
        pictures = Pictures(latents, denoiser.encode(prompts))
        parts = [noised(denoiser, pictures, LEVELS, generator) for _ in range(REPEATS)]
    return NoisyBatch.cat(parts)


def prefix_attack(
    attack: Attack, subject: Subject, n: int, samples: NoisyBatch, how: Callable, settings: Search, report: Report
) -> Outcome:
    """Search words, draw n prompts with them in front, and n with as many random words (the control that a prefix needs:
    any words in front can break an edit that is keyed to a prompt)."""
    generator = attack.generator()
    words, table = vocabulary(subject)
    with subject.opened(ERASED) as denoiser:
        table = table.to(denoiser.device).clone()
        rows = search(subject, denoiser, samples, table, how, settings, generator, report)
    found = " ".join(words[row] for row in rows)
    random = " ".join(random_words(subject, len(rows), generator))
    report.check(f"{attack.name}: drawing with {found!r} in front")
    shots = [
        shoot(subject, [f"{prefix} {prompt}" for prompt in plain_prompts(subject, n)], attack.seeds(n, part))
        for part, prefix in ((1, found), (2, random))
    ]
    return Outcome(*shots, f"random words in front ({random!r})", f"{found} {plain_prompts(subject, 1)[0]}")
