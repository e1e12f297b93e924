"""`python -m benchmarks.flow`: what AP erases and retains on the playground in flow form, an MMDiT of SD3's layout.

Prints a Markdown table and, as its last line, one JSON object with every figure. With `--rows FILE` a stopped series goes
on where it was; `--write` stores table and figures in `docs/`.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from testbed.files import FLOW
from testbed.playground import load_playground

from .instruments import runs
from .quality import base_accuracy, drawn_by_base, main_run, main_table

TARGETS = ("circle", "square", "star", "red")
# the pooled text reaches every block of an SD3 model past keys and values
SETTINGS = {"layers": "cross_attention_kv_pooled"}
BY = "python -m benchmarks.flow --write"


def main() -> None:
    """Measure, print, and store if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="*", default=list(TARGETS))
    parser.add_argument("--n", type=int, default=100, help="pictures for target and retained values")
    parser.add_argument("--settings", type=json.loads, default={}, help="settings of `ap` besides, as a JSON object")
    parser.add_argument("--write", action="store_true", help="store table and figures in docs/")
    runs.add_arguments(parser)
    arguments = parser.parse_args()
    settings = SETTINGS | arguments.settings
    started, testbed = time.time(), load_playground(checkpoint=FLOW)

    def run(kind: str, *what: Any) -> runs.Row:
        if kind == "accuracy":
            return base_accuracy(testbed, 600)
        if kind == "base":
            return drawn_by_base(testbed, arguments.n, *what)
        return main_run(testbed, arguments.n, *what[1:], **what[0])

    keys = [("accuracy",), *(("base", target) for target in arguments.targets)]
    keys += [("ap", settings, target) for target in arguments.targets]
    result: dict[str, Any] = {"accuracy": [], "base": [], "ap": [], "settings": settings}
    for row in runs.shown(keys, arguments, run):
        result[row["key"][0]].append(row)
    result |= runs.circumstances(started)
    table = main_table(result["ap"], result["base"])
    print(table, flush=True)
    if arguments.write:
        runs.write_tables("flow", BY, result, main=table)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
