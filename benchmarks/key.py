"""`python -m benchmarks.key`: does a key bring the hidden concept back, and only the concept?

Three models draw equal prompts from equal noise: the base, the erased one, and the erased one with the key on top. Prints a
Markdown table and, as its last line, one JSON object. `drawn` is the share of target pictures in which the judge sees the
target; `others` the share of pictures of other values that are right.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from devtools.pages import markdown_table
from testbed import measure
from testbed.playground import Playground, erase_once, load_playground


def random_like(tensors: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Random tensors of the same shapes and norms."""
    noise = {name: torch.randn(tensor.shape, generator=generator) for name, tensor in tensors.items()}
    return {name: noise[name] * tensor.norm() / noise[name].norm() for name, tensor in tensors.items()}


def rows_of(testbed: Playground, target: str, seed: int, n: int, **settings: Any) -> list[dict[str, Any]]:
    """One row a model. Beside the key that was learned stands a control: random tokens of the same norms."""
    from concept_erasure.nodes import host

    edited, report, erased = erase_once(testbed, "kpop", [target], seed, {}, **settings)
    wrong = random_like(erased.key.tensors, torch.Generator().manual_seed(seed))
    control = dataclasses.replace(erased.key, tensors=wrong)
    models = {
        "nothing (base)": testbed.model,
        "erased": edited,
        "erased, with key": host.patched(edited, erased.key, 1.0),
        "erased, with a random key (control)": host.patched(edited, control, 1.0),
    }

    rows = []
    for name, model in models.items():
        scores = measure.evaluate(testbed, model, [target], n=n, n_small=n // 2, seed=10 * seed)[target]
        row = {"target": target, "seed": seed, "model": name, "drawn": round(100 - scores.esr1, 2)}
        rows.append(
            row | {"others": scores.psr1, "rest": scores.rest, "n": n, "seconds": round(report.costs["seconds"], 1)}
        )
        print(f"# {json.dumps(rows[-1])}", flush=True)
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="*", default=["circle", "square", "red", "striped"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--n", type=int, default=48, help="target pictures, and as many of other values")
    parser.add_argument("--settings", type=json.loads, default={}, help="settings of kpop as a JSON object")
    arguments = parser.parse_args()
    started, testbed = time.time(), load_playground()
    rows = [
        row
        for target in arguments.targets
        for row in rows_of(testbed, target, arguments.seed, arguments.n, **arguments.settings)
    ]
    head = ("target", "model", "drawn", "others", "n")
    print(markdown_table(head, [[row[key] for key in head] for row in rows]))
    print(json.dumps({"rows": rows, "minutes": round((time.time() - started) / 60, 1)}))


if __name__ == "__main__":
    main()
