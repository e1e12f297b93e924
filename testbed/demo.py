"""`make demo`: erase a concept in a real ComfyUI, then show the pictures, the file and the figures.

python -m testbed.demo [--workflow FILE] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from devtools import make_workflows
from devtools.hosting import comfyui, install
from devtools.hosting.errors import in_one_line
from devtools.serving import server

from . import files, screen

WORKFLOW = make_workflows.path_of("erase_and_compare")
OUT = comfyui.PACK / "demo-output"
PICTURES = ("SaveImage", "PreviewImage")  # a plot of the loss belongs to no row of pictures
SCORED = 48  # pictures a figure: enough for a demo, `make bench-quality` has more


@dataclass(frozen=True)
class Run:
    """The results of one run of the workflow: pictures by output node, the saved file if any, and what it cost; and the
    checkpoints that it loaded."""

    checkpoints: list[str]
    rows: list[tuple[str, list[bytes]]]
    erased_unet: Path | None
    seconds: float
    peak_bytes: int | None


def run_workflow(running: server.Server, workflow: dict) -> Run:
    """Post a UI-format workflow, show its progress, and collect what it made."""
    prompt = server.api_prompt(workflow, server.object_info(running))
    titles = {node: entry["_meta"]["title"] for node, entry in prompt.items()}
    started, clock = time.time(), time.monotonic()
    prompt_id = server.queue(running, prompt, workflow)
    entry = server.wait(running, prompt_id, on_progress=screen.progress_bar(titles))
    seconds = time.monotonic() - clock
    rows = []
    for node in sorted(entry["outputs"], key=lambda node: [*map(int, node.split(":"))]):
        refs = entry["outputs"][node].get("images", [])
        if refs and prompt[node]["class_type"] in PICTURES:
            rows.append((titles[node], [server.view(running, ref) for ref in refs]))
    checkpoints = [entry["inputs"]["ckpt_name"] for entry in prompt.values() if "ckpt_name" in entry["inputs"]]
    return Run(checkpoints, rows, _newest_erased_unet(running, started), seconds, peak_memory(running))


def peak_memory(running: server.Server) -> int | None:
    """The most memory the server has held, in bytes; None where the system does not count it."""
    status = Path(f"/proc/{running.process.pid}/status")
    if status.is_file():
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import psutil

    return getattr(psutil.Process(running.process.pid).memory_info(), "peak_wset", None)  # Windows


def scores(models: Path, erased_unet: Path | None, on_the_book: bool, n: int = SCORED) -> dict[str, str]:
    """ESR-1 and PSR-1 of the saved erasure beside the base model's, over n pictures for each figure, by the judges of the
    picture book or of the playground."""
    if erased_unet is None:
        return {"ESR-1, PSR-1": "nothing was saved to measure"}
    # only now: they load torch and ComfyUI into this process, which the server does not need
    from transformers.utils import logging

    from testbed import measure, measure_book
    from testbed.playground import load_picture_book, load_playground

    logging.disable_progress_bar()
    testbed = load_picture_book(models) if on_the_book else load_playground(models)
    evaluate = partial(measure_book.evaluate, n=n) if on_the_book else partial(measure.evaluate, n=n, n_small=1)
    from concept_erasure.erasure_core.erased_unet import load_erased_unet
    from concept_erasure.nodes import host as engine

    erased = load_erased_unet(erased_unet)
    targets = [target for target, _anchor in erased.provenance.targets]
    try:
        before = evaluate(testbed, testbed.model, targets)
        after = evaluate(testbed, engine.patched(testbed.model, erased, 1.0), targets)
    except ValueError as error:  # a workflow of the user's own may erase what the judges do not know
        return {"ESR-1, PSR-1": f"not measured: {error}"}
    table = {}
    for target, was in before.items():
        figures = {
            f"ESR-1: {target!r} gone from its prompts": "esr1",
            f"PSR-1: the others still there without {target!r}": "psr1",
        }
        if on_the_book and was.look_alike is not None:
            figures[f"PSR-1: its look-alikes still there without {target!r}"] = "look_alike"
        for title, name in figures.items():
            table[title] = f"{getattr(after[target], name):.1f} % (before: {getattr(was, name):.1f} %), n = {n}"
    return table


@in_one_line
def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; 0, or 1 with the reason on standard error."""
    parser = argparse.ArgumentParser(prog="python -m testbed.demo", description="Erase a concept, end to end.")
    parser.add_argument("--workflow", type=Path, default=WORKFLOW, help="a UI-format workflow")
    parser.add_argument("--out", type=Path, default=OUT, help="where the picture and the erased UNet go")
    args = parser.parse_args(argv)
    try:
        workflow = json.loads(args.workflow.read_text(encoding="utf-8"))
        host = comfyui.ensure()
        models = files.all_models(host)
        print(f"starting ComfyUI from {host.path}", flush=True)
        with server.running_server(host, install.cache() / "demo", models_directory=models) as running:
            print(f"running {args.workflow.name} on {running.url}", flush=True)
            run = run_workflow(running, workflow)
        print(f"judging {SCORED} pictures a figure, before and after", flush=True)
        measured = scores(models, run.erased_unet, files.BOOK.name in run.checkpoints)
        _show(run, args.out, args.workflow.stem, measured)
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    return 0


def _show(run: Run, out: Path, name: str, measured: dict[str, str]) -> None:
    """Put the results where the user is and name them."""
    out.mkdir(parents=True, exist_ok=True)
    print()
    if run.rows:
        screen.save_grid(run.rows, out / f"{name}.png")
        print(f"  picture      {out / f'{name}.png'}")
    if run.erased_unet:
        copy = Path(shutil.copy2(run.erased_unet, out))
        print(f"  erased UNet  {copy} ({copy.stat().st_size / 2**20:.1f} MiB)")
    memory = "not counted on this system" if run.peak_bytes is None else f"{run.peak_bytes / 2**30:.2f} GiB"
    screen.print_table({**measured, "seconds, whole workflow": f"{run.seconds:.1f}", "peak memory of ComfyUI": memory})


def _newest_erased_unet(running: server.Server, since: float) -> Path | None:
    """The file that this run saved, wherever under the outputs its kind belongs."""
    files = (running.base_directory / "output").rglob("*.safetensors")
    fresh = [path for path in files if path.stat().st_mtime >= since - 1.0]  # file dates can be coarse
    return max(fresh, key=lambda path: path.stat().st_mtime, default=None)


if __name__ == "__main__":
    raise SystemExit(main())
