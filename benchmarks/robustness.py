"""`make bench-robustness`: every attack against several methods, the base model, and a model that never knew the concept.

Prints a Markdown table and, as its last line, one JSON object with every figure. The models are divided between as many
processes as there are cores. With `--rows FILE` a stopped series goes on behind the last finished model. `--write` stores
table and figures in `docs/`.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import time
from collections.abc import Sequence
from typing import Any

import torch

from devtools.hosting import comfyui
from devtools.pages import markdown_table
from playground.drawing import SIZE, SYNONYMS
from playground.sampling import BATCH, EULER
from playground.weights import gold_checkpoint
from testbed.files import JUDGE, playground_models
from testbed.measure import factor_of, prompts
from testbed.playground import Playground, erase_once, load_playground

from .instruments.runs import Row, add_arguments, add_processes, circumstances, divided, shown, write_tables

METHODS = ("ap", "esd", "uce", "rece", "sdd", "age")
BASE, GOLD = "nothing (base)", "gold (trained without it)"
SENTENCES = 6
BY = "make bench-robustness ARGS=--write"


def templates(target: str, seed: int) -> tuple[str, ...]:
    """Sentences of the playground with a gap for the target."""
    asked = prompts(SENTENCES, seed, **{factor_of(target): [target]})
    return tuple(prompt.text.replace(target, "{}") for prompt in asked)


def judge_of(target: str) -> Any:
    """The playground's judge of the target's factor."""
    from concept_erasure.erasure_core.evaluation.judges.judge import load_judge

    name = factor_of(target)
    return load_judge(playground_models(comfyui.ensure()) / JUDGE / name, name, torch.device("cpu"))


def untrained_gold(targets: Sequence[str]) -> list[str]:
    """The targets whose gold model is not on this machine."""
    return [target for target in targets if not gold_checkpoint(target).is_file()]


def gold_model(target: str) -> Any:
    """The MODEL that was trained without the target."""
    import comfy.sd

    with torch.inference_mode():
        path = str(gold_checkpoint(target))
        return comfy.sd.load_checkpoint_guess_config(path, output_vae=False, output_clip=False)[0]


def model_of(testbed: Playground, name: str, target: str, seed: int, encoded: dict) -> Any:
    """The base model, the gold model of the target, or what a method makes of the base."""
    if name == BASE:
        return testbed.model
    if name == GOLD:
        return gold_model(target)
    return erase_once(testbed, name, [target], seed, encoded)[0]


def attacked(testbed: Playground, name: str, target: str, arguments: argparse.Namespace, encoded: dict) -> Row:
    """Erase, run every attack, and hand out the figures of each."""
    from concept_erasure.erasure_core.evaluation.report import judge_figures
    from concept_erasure.erasure_core.evaluation.sampler import Sampling
    from concept_erasure.erasure_core.red_team.attack_suite import Survey, parse_attacks, run_all
    from concept_erasure.nodes import host
    from concept_erasure.nodes.runs.red_team_progress import attacking

    started = time.monotonic()
    model = model_of(testbed, name, target, arguments.seed, encoded)
    erasing = time.monotonic() - started

    sampling, judge = Sampling(SIZE, SIZE, *dataclasses.astuple(EULER), BATCH), judge_of(target)
    synonyms = [SYNONYMS[target]] if target in SYNONYMS else []
    with torch.inference_mode():  # as ComfyUI runs a node
        linked = host.LinkedModels(testbed.model, model, testbed.clip, testbed.vae, judge, sampling)
        models = host.ComfyAttackedModel(linked, target, templates(target, arguments.seed), synonyms)
        chosen = parse_attacks("\n".join(arguments.attacks), arguments.seed)
        survey = Survey(len(chosen))
        with attacking(testbed.model, name) as report:
            run_all(models, chosen, arguments.n, survey, report)

    seconds = {"erasing": round(erasing, 1), "in_all": round(time.monotonic() - started, 1)}
    who = judge_figures(judge)
    return {"method": name, "target": target, "seconds": seconds} | who | survey.as_json()


def table(rows: Sequence[Row]) -> str:
    """A row a model: what it draws without an attack, then each attack's success beside its control's, in per cent; bold
    where the edit falls."""
    from concept_erasure.erasure_core.red_team.attack import label_of

    def label(one: Row) -> str:
        return label_of(one["attack"], one["settings"])

    names = list(dict.fromkeys(label(one) for row in rows for one in row["attacks"]))
    cells = []
    for row in rows:
        found = {label(one): one for one in row["attacks"]}
        plain = row["attacks"][0]["shares"]["no attack"]["per_cent"]
        cells.append([row["method"], row["target"], f"{plain:.0f}", *(_cell(found.get(name)) for name in names)])
    return markdown_table(("model", "target", "no attack", *names), cells)


def _cell(found: Row | None) -> str | None:
    if found is None:
        return None
    success, control = (f"{found['shares'][which]['per_cent']:.0f}" for which in ("attack", "control"))
    return f"{success} ({control})" if found["survives"] else f"**{success}** ({control})"


def arguments_of(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    from concept_erasure.erasure_core.red_team.attack_suite import every_attack

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="*", default=["base", "gold", *METHODS], help="'base', 'gold' or a method")
    parser.add_argument("--targets", nargs="*", default=["circle"])
    parser.add_argument(
        "--attacks", nargs="*", default=every_attack(), help="each as in Red-Team Summary: 'p4d steps=50'"
    )
    parser.add_argument("--n", type=int, default=16, help="attempts of each attack, and as many of its control")
    parser.add_argument("--seed", type=int, default=0)
    add_arguments(parser)
    add_processes(parser, os.cpu_count() or 1)
    arguments = parser.parse_args(given)
    arguments.methods = [{"base": BASE, "gold": GOLD}.get(name, name) for name in arguments.methods]
    return arguments


def main() -> None:
    """Measure, print, and store if asked to."""
    from devtools.hosting.pack import load_pack

    load_pack()
    arguments, started = arguments_of(), time.time()
    playground_models(comfyui.ensure())  # built once, before several processes want it
    testbed, encoded = functools.cache(load_playground), {}

    def run(name: str, target: str, *_settings: Any) -> Row:
        return attacked(testbed(), name, target, arguments, encoded)

    # what decides a row is part of its key: a file of rows serves only runs with the same attacks, attempts and seed
    settings = (arguments.seed, arguments.n, " ".join(arguments.attacks))
    keys = [(name, target, *settings) for target in arguments.targets for name in arguments.methods]
    for target in untrained_gold(arguments.targets) if GOLD in arguments.methods else ():
        print(
            f"# no gold row for {target!r}: make playground ARGS='--only gold --without {target}' trains it, in hours"
        )
        keys = [key for key in keys if key[:2] != (GOLD, target)]
    rows = shown(keys, arguments, run, divided("benchmarks.robustness", keys, arguments))
    print(table(rows), flush=True)
    result = {"rows": rows, "n": arguments.n} | circumstances(started)
    if arguments.write:
        write_tables("robustness", BY, result, attacks=table(rows))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
