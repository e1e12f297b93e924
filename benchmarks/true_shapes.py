"""`python -m benchmarks.true_shapes`: an update of AP at the true shapes of SD 1.5 (512) and SDXL (1024): seconds and memory.

Weights and text states are random: cost does not depend on them. `foretold` is an estimate of the memory on a GPU, counted
from the shapes of all tensors without computing (see benchmarks/instruments/estimated_gpu_memory.py); `measured` runs AP's
own loop on the device that ComfyUI chooses: the CPU, or with `--device cuda` a GPU. The noisy samples that it learns on are
random as well, so that no sampling runs are drawn, and a measured run is of few updates. `--profile` also says where an
update's time goes. Prints Markdown tables and, as its last line, one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any
from unittest.mock import patch

import torch

from devtools.hosting.inprocess import load_comfy
from devtools.hosting.pack import load_pack
from devtools.pages import markdown_table

from .instruments import runs
from .instruments.estimated_gpu_memory import PUBLISHED, estimated
from .instruments.peak_tensor_memory import LiveMemory
from .instruments.random_models import SIZES, RandomText, random_model
from .instruments.runs import Row
from .instruments.stopwatch import STEPS, Stopwatch, counters, parts_of_ap
from .speed import NO_CACHE

BUDGET_GB = {"SD15": 3.0, "SDXL": 8.0}
FLOOR = ("forward", "backward")
PARTS = ("teacher", "search", "forward", "backward", "optimiser", "text", "the rest")
SMALL_RUN = {"trajectories": 1, "sampling_steps": 2, "retain_sampling_steps": 2, "vocabulary": "shapes_and_colours"}
"""As little around the updates as AP can do with."""


def random_trajectories(
    denoiser: Any, conditioning: Any, steps: int, guidance_scale: float, generator: torch.Generator, *_: Any
) -> tuple[Any, Any]:
    """In place of `trajectory.sample_trajectories`: samples as many and as large, at the same noise levels, of noise."""
    from concept_erasure.erasure_core.training.trajectory import NoisyBatch

    shape, parts = denoiser.empty_latents(len(conditioning)).shape, []
    for sigma in denoiser.sigmas(steps)[:-1]:
        noise = [torch.randn(shape, generator=generator).to(denoiser.device) for _ in range(3)]
        parts.append(NoisyBatch(noise[0] * sigma, sigma.expand(shape[0]), conditioning, *noise[1:]))
    return NoisyBatch.cat(parts), noise[0]


def measured(family: str, updates: int, settings: dict[str, Any]) -> Row:
    """AP's own loop: seconds and parts per update, and the memory of the whole of it over the loaded model."""
    from concept_erasure.erasure_core.concepts import parse_request
    from concept_erasure.erasure_core.method import methods
    from concept_erasure.erasure_core.report import Report
    from concept_erasure.erasure_core.training import trajectory
    from concept_erasure.nodes import host

    method, report, size = methods()["ap"](steps=updates, **SMALL_RUN | settings), Report(), SIZES[family]
    model = random_model(family)
    with host.open_session(model, RandomText(family), size, size) as denoiser, host.MemoryMeter(host.device()) as meter:
        watch = Stopwatch(counters(denoiser))
        replaced = patch.object(trajectory, "sample_trajectories", random_trajectories)
        on_gpu = denoiser.device.type == "cuda"
        # torch itself counts what it gives out on a GPU, and following each tensor would outlast its work there
        with replaced, parts_of_ap(watch), nullcontext() if on_gpu else LiveMemory() as live:
            method.erase(denoiser, parse_request("cat"), report)
        watch.stop()
        device = str(denoiser.device)
    clock = "wall" if on_gpu else "cpu"
    return {
        "family": family,
        "size": size,
        "device": device,
        "updates": updates,
        "samples": method.batch + method.preserved,
        "checkpointing": method.checkpointing,
        "model_GB": round(sum(p.nbytes for p in model.model.parameters()) / 1e9, 2),
        "peak_GB": round(meter.peak / 1e9, 2),
        "tensors_peak_GB": round((live or meter).peak / 1e9, 2),
        "process_peak_GB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        "clock": clock,
        "wall_seconds_per_update": round(watch.cost("wall", lambda path: STEPS in path) / updates, 2),
        "seconds_per_update": round(watch.cost(clock, lambda path: STEPS in path) / updates, 2),
        "parts": parts(watch, clock, updates),
        "notes": report.notes,
    }


def parts(watch: Stopwatch, clock: str, updates: int) -> dict[str, dict[str, float]]:
    """Seconds and UNet evaluations of each part of an update; `the rest` is what has no name of its own."""

    def name_of(path: tuple[str, ...]) -> str | None:
        named = [part for part in path if part in PARTS]
        return None if STEPS not in path else named[-1] if named else PARTS[-1]

    return {
        part: {
            "seconds": round(watch.cost(clock, lambda path, part=part: name_of(path) == part) / updates, 3),
            "evaluations": round(watch.cost("evaluations", lambda path, part=part: name_of(path) == part) / updates),
        }
        for part in PARTS
    }


def summary(expected: Sequence[Row], found: Sequence[Row]) -> dict[str, Any]:
    """Memory of a checkpointed update of the largest batch beside its budget, of whatever takes most, and how many times that
    the published loop takes; an update's time over its floor, its own forward and backward passes."""
    result: dict[str, Any] = {}
    for family, budget in BUDGET_GB.items():
        peaks = {row["what"]: row["peak_GB"] for row in expected if row["family"] == family and row["what"] != "update"}
        published = peaks.pop(PUBLISHED, None)
        if "update, checkpointed" in peaks:
            update, most = peaks["update, checkpointed"], max(peaks.values())
            result |= {f"foretold_update_GB_{family}": update, f"foretold_update_fits_{family}": update <= budget}
            result[f"foretold_peak_GB_{family}"] = most
            if published:
                result[f"foretold_published_over_peak_{family}"] = round(published / most, 1)
    for row in found:
        floor = sum(row["parts"][part]["seconds"] for part in FLOOR)
        result[f"update_over_floor_{row['family']}"] = round(row["seconds_per_update"] / floor, 2)
    return result


def tables(expected: Sequence[Row], found: Sequence[Row], profile: bool) -> list[str]:
    """Estimated, measured, and if asked for, the parts of each measured update."""
    texts = []
    if expected:
        texts.append(markdown_table(list(expected[0]), [list(row.values()) for row in expected]))
    if found:
        head = [name for name in found[0] if name not in ("key", "parts", "notes")]
        texts.append(markdown_table(head, [[row[name] for name in head] for row in found]))
    for row in found if profile else ():
        cells = [[part, costs["seconds"], costs["evaluations"]] for part, costs in row["parts"].items()]
        floor = [sum(row["parts"][part][what] for part in FLOOR) for what in ("seconds", "evaluations")]
        head = (f"part of an update, {row['family']}", "s", "UNet evaluations")
        texts.append(markdown_table(head, [*cells, ["floor: forward + backward", round(floor[0], 3), floor[1]]]))
    return texts


def main() -> None:
    """Estimate, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="*", default=list(SIZES), choices=SIZES)
    parser.add_argument("--skip-estimate", action="store_true")
    parser.add_argument("--skip-measured", action="store_true")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--updates", type=int, default=1)
    parser.add_argument("--settings", type=json.loads, default={}, help="of ap, as a JSON object")
    parser.add_argument("--profile", action="store_true", help="also where the time of an update goes")
    runs.add_arguments(parser)
    arguments = parser.parse_args()
    os.environ.setdefault(*NO_CACHE)
    load_comfy(arguments.device)
    load_pack()

    started = time.time()
    without_estimate = arguments.skip_estimate or arguments.device == "cuda"  # a GPU's memory is measured there
    expected = [] if without_estimate else [row for family in arguments.families for row in estimated(family)]
    keys = [(family, arguments.updates, arguments.settings) for family in arguments.families]
    found = [] if arguments.skip_measured else list(runs.each(keys, arguments, measured))

    print("\n\n".join(tables(expected, found, arguments.profile)), flush=True)
    device = {"gpu": torch.cuda.get_device_name()} if arguments.device == "cuda" else {}
    result = summary(expected, found) | runs.circumstances(started) | device
    print(json.dumps(result | {"foretold": expected, "measured": found}))


if __name__ == "__main__":
    main()
