"""`python -m benchmarks.end_to_end`: whole erasures by `ap` at the true shapes of SD 1.5 (512) and SDXL (1024), on a GPU.

Weights and text states are random: cost does not depend on them; a text encoder's time is not in it. A run goes from the
first sampling run to the last optimiser step, as its settings choose and once more with gradient checkpointing. Of the
published loop, `ap_reference`, a few updates run on the same network in the same precision, and their cost is scaled up to
all of them by the UNet evaluations that all take on average. Memory is what torch allocated over the loaded model.
Prints a Markdown table and, as its last line, one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from typing import Any

import torch

from devtools.hosting.inprocess import load_comfy
from devtools.hosting.pack import load_pack
from devtools.pages import markdown_table

from .instruments import runs
from .instruments.random_models import SIZES, RandomText, random_model
from .instruments.runs import Row
from .speed import NO_CACHE, OURS, PUBLISHED, timed

TARGET = "cat"
SAVING = "saving"
RUNS = (OURS, SAVING, PUBLISHED)
BUDGET_S = {"SD15": 60, "SDXL": 300}
BUDGET_GB = {"SD15": 3.0, "SDXL": 8.0}


def published_evaluations() -> int:
    """UNet evaluations that the published loop takes on average: latents at an evenly drawn noise level, then teachers and
    samples with gradient."""
    from concept_erasure.erasure_core.method import methods

    method = methods()[PUBLISHED]()
    loops, guided_steps = 2 * method.steps - 1, (method.sampling_steps - 1) / 2
    latents = 2 * 2 * guided_steps
    teachers, with_gradient = 3, 2
    return round(loops * (latents + teachers + with_gradient))


def whole_run(family: str, name: str, settings: dict[str, Any]) -> Row:
    """One erasure on a model of random weights: seconds without the text encoder's, and the most memory over the model."""
    from concept_erasure.nodes import host

    model, size = random_model(family), SIZES[family]
    with host.open_session(model, RandomText(family), size, size) as denoiser, host.MemoryMeter(host.device()) as meter:
        _, costs = timed(denoiser, name, TARGET, settings)
        weights = sum(parameter.nbytes for parameter in model.model.parameters())
    evaluations, seconds = costs["UNet_evaluations"], costs["seconds"] - costs["text_seconds"]
    each = seconds / evaluations
    if name == PUBLISHED:
        evaluations = published_evaluations()  # those of a few updates hang on the noise levels that they drew
    return {
        "family": family,
        "size": size,
        "method": name,
        "settings": "" if name == PUBLISHED else ", ".join(f"{k} {v}" for k, v in settings.items()) or "defaults",
        "updates": costs["updates"],
        "UNet_evaluations": evaluations,
        "ms_per_evaluation": round(1000 * each, 2),
        "seconds": round(evaluations * each, 1),
        "model_GB": round(weights / 1e9, 2),
        "peak_GB": round(meter.peak / 1e9, 2),
    }


def summary(rows: Sequence[Row]) -> Row:
    """The default run of each family beside its budget, the most memory of a checkpointed run beside its own, and how
    many times the published loop takes of both time and evaluations."""
    result: Row = {}
    for family in SIZES:
        mine = [row for row in rows if row["family"] == family]
        fast = next((row for row in mine if row["settings"] == "defaults"), None)
        saving = next((row for row in mine if "checkpointing on" in row["settings"]), None)
        slow = next((row for row in mine if row["method"] == PUBLISHED), None)
        if fast:
            result |= {f"seconds_{family}": fast["seconds"], f"in_time_{family}": fast["seconds"] <= BUDGET_S[family]}
        if saving:
            result |= {f"peak_GB_{family}": saving["peak_GB"], f"fits_{family}": saving["peak_GB"] <= BUDGET_GB[family]}
        if fast and slow:
            result[f"wall_ratio_{family}"] = round(slow["seconds"] / fast["seconds"], 1)
            result[f"unet_evaluations_ratio_{family}"] = round(slow["UNet_evaluations"] / fast["UNet_evaluations"], 1)
    return result


def table(rows: Sequence[Row]) -> str:
    """One line a run."""
    head = [name for name in rows[0] if name != "key"]
    return markdown_table(head, [[row[name] for name in head] for row in rows])


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="*", default=list(SIZES), choices=SIZES)
    parser.add_argument("--runs", nargs="*", default=RUNS, choices=RUNS)
    parser.add_argument("--settings", type=json.loads, default={}, help="of ap, as a JSON object")
    parser.add_argument("--updates", type=int, default=6, help="optimiser steps of the published loop")
    runs.add_arguments(parser)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error(
            "this needs a GPU of CUDA, and torch sees none; benchmarks.true_shapes measures an update on the CPU"
        )
    os.environ.setdefault(*NO_CACHE)
    load_comfy("cuda")
    load_pack()

    started = time.time()
    ways = {
        OURS: (OURS, arguments.settings),
        SAVING: (OURS, arguments.settings | {"checkpointing": "on"}),
        PUBLISHED: (PUBLISHED, {"steps": arguments.updates}),
    }
    keys = [(family, *ways[name]) for family in arguments.families for name in arguments.runs]

    rows = runs.shown(keys, arguments, whole_run)
    print(table(rows), flush=True)
    gpu = {"gpu": torch.cuda.get_device_name()}
    print(json.dumps(summary(rows) | runs.circumstances(started) | gpu | {"rows": rows}))


if __name__ == "__main__":
    main()
