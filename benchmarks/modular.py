"""`python -m benchmarks.modular`: does a concept return when a user trains a LoRA, and does keeping the two apart help?

A target is erased. Then ComfyUI's own LoRA trainer learns a task, a style: everything is checked, whatever the prompt says of
it. It does so in two ways: (a) on top of the erased model, (b) on the base model, so that its LoRA is put beside the erased
UNet when pictures are drawn. The task's pictures are the playground's own drawings: `benign` ones never show the target,
`target` ones always do.
Prints a Markdown table and, as its last line, one JSON object with every figure.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from devtools.pages import markdown_table
from playground.drawing import FILLS, SHAPES, caption, draw, random_scene
from testbed import measure
from testbed.playground import Playground, erase_once, load_playground

STYLE = "checked"
CASES = ("benign", "target")
TRAINER = {
    "grad_accumulation_steps": 1, "optimizer": "AdamW", "loss_function": "MSE",
    "lora_dtype": "fp32", "quantized_backward": False, "algorithm": "LoRA", "gradient_checkpointing": False,
    "checkpoint_depth": 1, "offloading": False, "existing_lora": "[None]", "bucket_mode": False, "bypass_mode": False,
}  # fmt: skip


@dataclass(frozen=True)
class Task:
    """How the user trains: the widgets of ComfyUI's trainer that one turns."""

    pictures: int
    steps: int
    batch_size: int
    learning_rate: float
    rank: int
    seed: int


def drawings(target: str, case: str, n: int, seed: int) -> tuple[Tensor, list[str]]:
    """n pictures in the task's style, with captions that do not name it: of the target, or of every other shape."""
    generator = torch.Generator().manual_seed(seed)
    shapes = tuple(i for i, name in enumerate(SHAPES) if (name == target) == (case == "target"))
    scene = random_scene(n, generator, shapes)
    scene = replace(scene, fill=torch.full_like(scene.fill, FILLS.index(STYLE)))
    captions = [caption(scene, index, generator, drop=0.0) for index in range(n)]
    return draw(scene), [text.replace(f"{STYLE} ", "") for text in captions]


def train_lora(
    testbed: Playground, model: Any, pictures: Tensor, captions: Sequence[str], task: Task
) -> dict[str, Tensor]:
    """A LoRA from ComfyUI's node Train LoRA, on `model` as a user would link it."""
    from comfy_extras.nodes_train import TrainLoraNode
    from concept_erasure.erasure_core.memory.precision import cpu_computes_in_bf16

    with torch.inference_mode():
        latents = testbed.vae.encode(pictures.movedim(1, -1))
        texts = [
            testbed.clip.encode_from_tokens_scheduled(testbed.clip.tokenize(text), show_pbar=False) for text in captions
        ]
        torch.manual_seed(task.seed)  # the trainer starts from the global random numbers
        chosen = {"steps": task.steps, "batch_size": task.batch_size, "learning_rate": task.learning_rate}
        chosen |= {"training_dtype": "bf16" if cpu_computes_in_bf16() else "fp32"}
        settings = TRAINER | chosen | {"rank": task.rank, "seed": task.seed}
        lists = {name: [value] for name, value in settings.items()}
        output = TrainLoraNode.execute(model=[model], latents=[{"samples": latents}], positive=texts, **lists)
    return output.args[0]


def with_lora(model: Any, lora: dict[str, Tensor]) -> Any:
    """A clone of `model` with the LoRA at full strength, by ComfyUI's node Load LoRA Model."""
    from comfy_extras.nodes_train import LoraModelLoader

    with torch.inference_mode():
        return LoraModelLoader.execute(model, lora, 1.0).args[0]


def row_of(testbed: Playground, name: str, case: str, model: Any, target: str, n: int, seed: int) -> dict[str, Any]:
    """The scores of a model on n prompts of the target and n of other shapes, which name no fill; shares in per cent.

    esr1 and psr1 are those of `measure.Scores`, colour how many of the other shapes have the right one, style how many
    are in the task's.
    """
    asked = measure.prompts(n, seed, shape=[target], fill=[STYLE])
    asked += measure.prompts(n, seed + 1, shape=[shape for shape in SHAPES if shape != target], fill=[STYLE])
    pictures = testbed.draw(model, [prompt.text.replace(f"{STYLE} ", "") for prompt in asked], seed + 1000)
    seen = testbed.judged(pictures)
    right = {
        factor: [one == getattr(prompt, factor) for one, prompt in zip(seen[factor], asked, strict=True)]
        for factor in measure.VALUES
    }
    return {
        "model": name,
        "case": case,
        "target": target,
        "esr1": round(100 - 100 * sum(right["shape"][:n]) / n, 1),
        "psr1": round(100 * sum(right["shape"][n:]) / n, 1),
        "colour": round(100 * sum(right["colour"][n:]) / n, 1),
        "style": round(100 * sum(right["fill"][n:]) / n, 1),
        "n": n,
    }


def rows(arguments: argparse.Namespace, task: Task) -> Iterator[dict[str, Any]]:
    """Base, erased, and for each case base + task, route (a) and route (b)."""
    testbed, target, n, seed = load_playground(), arguments.target, arguments.n, 10 * arguments.seed

    def measured(name: str, case: str, model: Any) -> dict[str, Any]:
        return row_of(testbed, name, case, model, target, n, seed)

    yield measured("base", "-", testbed.model)
    erased, report, _ = erase_once(testbed, arguments.method, [target], arguments.seed, {})
    yield measured("erased", "-", erased) | {"seconds": round(report.costs["seconds"], 1)}
    for case in arguments.cases:
        pictures, captions = drawings(target, case, task.pictures, task.seed)
        started = time.monotonic()
        on_base = train_lora(testbed, testbed.model, pictures, captions, task)
        seconds = round(time.monotonic() - started, 1)
        on_top = train_lora(testbed, erased, pictures, captions, task)
        yield measured("base + task", case, with_lora(testbed.model, on_base)) | {"seconds": seconds}
        yield measured("(a) task on top of erased", case, with_lora(erased, on_top))
        yield measured("(b) task beside erased", case, with_lora(erased, on_base))


def table(found: Sequence[dict[str, Any]]) -> str:
    """One line a model."""
    keys = ("model", "case", "esr1", "psr1", "colour", "style")
    cells = [[*(row[key] for key in keys), f"{row['n']} + {row['n']}"] for row in found]
    head = ("model", "task's pictures", "ESR-1", "PSR-1", "its colours", "in the task's style", "n")
    return markdown_table(head, cells)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="circle", choices=SHAPES)
    parser.add_argument("--method", default="modular_lora", help="what erases")
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=CASES)
    parser.add_argument("--n", type=int, default=100, help="target pictures, and as many of other values, a row")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pictures", type=int, default=64, help="the task's training pictures")
    parser.add_argument("--task-steps", type=int, default=200)
    parser.add_argument("--task-batch", type=int, default=4)
    parser.add_argument("--task-learning-rate", type=float, default=1e-3)
    parser.add_argument("--task-rank", type=int, default=8)
    arguments = parser.parse_args()
    task = Task(
        arguments.pictures, arguments.task_steps, arguments.task_batch, arguments.task_learning_rate,
        arguments.task_rank, arguments.seed,
    )  # fmt: skip

    started, found = time.time(), []
    for row in rows(arguments, task):
        found.append(row)
        print(f"# {json.dumps(row)}", flush=True)
    print(table(found), flush=True)
    result = {"rows": found, "task": asdict(task), "method": arguments.method, "cores": os.cpu_count()}
    print(json.dumps(result | {"minutes": round((time.time() - started) / 60, 1)}))


if __name__ == "__main__":
    main()
