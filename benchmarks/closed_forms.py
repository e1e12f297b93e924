"""`python -m benchmarks.closed_forms`: seconds, peak memory and file size of the closed forms at the shapes of SD 1.5 and SDXL.

Weights and text states are random: cost does not depend on them, and quality is not measured here. The text states are
made before the clock starts, because that is the text encoder's time. Prints a Markdown table and, as its last line, one
JSON object. Exits 1 if a target is missed.
"""

from __future__ import annotations

import json
import resource
import sys
import time
import zlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from devtools.hosting.pack import load_pack
from devtools.pages import markdown_table

load_pack()
from concept_erasure.erasure_core.concepts import parse_request  # noqa: E402
from concept_erasure.erasure_core.denoiser import Conditioning  # noqa: E402
from concept_erasure.erasure_core.method import methods  # noqa: E402
from concept_erasure.erasure_core.report import Report  # noqa: E402

TOKENS = 77
SHAPES = {  # family -> (rows, attentions) of keys and of values, and the width of the text states
    "SD15": (((320, 5), (640, 5), (1280, 6)), 768),
    "SDXL": (((640, 10), (1280, 60)), 2048),
}
SECONDS = {("SD15", 1): 2.0, ("SD15", 100): 10.0, ("SDXL", 10): 20.0}
ONE_CONCEPT_MB = 2.0


class RandomDenoiser:
    """As much of a `Denoiser` as a closed form asks for, at a family's true shape."""

    device, fingerprint = torch.device("cpu"), "random"

    def __init__(self, family: str) -> None:
        self.family = family
        sizes, self._width = SHAPES[family]
        generator = torch.Generator().manual_seed(0)
        self._layers = {}
        for rows, attentions in sizes:
            for index in range(attentions):
                for part in ("to_k", "to_v"):
                    layer = nn.Linear(self._width, rows, bias=False, device="meta")
                    weight = torch.randn(rows, self._width, generator=generator) / self._width**0.5
                    layer.weight = nn.Parameter(weight, requires_grad=False)
                    self._layers[f"block.{rows}.{index}.attn2.{part}"] = layer
        self._states: dict[str, Tensor] = {}

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """See `Denoiser`; every prompt has random states of its own, made when it is first asked for."""
        for prompt in prompts:
            if prompt not in self._states:
                generator = torch.Generator().manual_seed(zlib.crc32(prompt.encode()))
                self._states[prompt] = torch.randn(1, TOKENS, self._width, generator=generator)
        states = [self._states[prompt] for prompt in prompts]
        return Conditioning({"c_crossattn": states[0] if len(states) == 1 else torch.cat(states)})

    def read(self, tokens: torch.Tensor) -> torch.Tensor:
        """See `Denoiser`."""
        return tokens

    def layers(self, group: str) -> dict[str, nn.Module]:
        """See `Denoiser`."""
        return self._layers

    def positions(self, prompt: str, phrase: str | None = None) -> list[int]:
        """See `Denoiser`: a token a word, after one token that begins every prompt."""
        words = prompt.split()
        if phrase is None:
            return list(range(1, len(words) + 1))
        start = words.index(phrase.split()[0])
        return list(range(start + 1, start + 1 + len(phrase.split())))

    def token_vectors(self, texts: Sequence[str]) -> None:
        """See `Denoiser`: there are none."""
        return None

    def known_words(self) -> list[str]:
        """See `Denoiser`."""
        return [f"known{index}" for index in range(1000)]

    def describe_prompt(self, prompt: str) -> str | None:
        """See `Denoiser`."""
        return None


def measured(denoiser: RandomDenoiser, name: str, concepts: int) -> dict[str, Any]:
    """One run of a method at its defaults, the text states made before."""
    request = parse_request("\n".join(f"concept{index}" for index in range(concepts)))
    method = methods()[name]()
    method.rows(denoiser, request, Report())
    started, cpu = time.perf_counter(), time.process_time()
    erased = method.erase(denoiser, request, Report())
    return {
        "family": denoiser.family,
        "method": name,
        "concepts": concepts,
        "seconds": round(time.perf_counter() - started, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "bar_seconds": SECONDS[denoiser.family, concepts],
        "file_MB": round(erased.size() / 1e6, 2),
        "peak_MB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3),
    }


def main() -> int:
    """Measure and print; 1 if a target is missed."""
    rows = []
    for family in SHAPES:
        denoiser = RandomDenoiser(family)
        for concepts in [count for known, count in SECONDS if known == family]:
            rows += [measured(denoiser, name, concepts) for name in ("uce", "rece")]
    missed = [row for row in rows if row["seconds"] > row["bar_seconds"]]
    missed += [
        row for row in rows if row["family"] == "SD15" and row["concepts"] == 1 and row["file_MB"] > ONE_CONCEPT_MB
    ]
    print(markdown_table(list(rows[0]), [list(row.values()) for row in rows]))
    print(json.dumps({"rows": rows, "threads": torch.get_num_threads(), "missed": missed}))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
