"""Long series of runs that can be stopped, continued, and divided between processes."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from devtools.hosting.comfyui import PACK
from devtools.pages import filled

Row = dict[str, Any]
DOCS = PACK / "docs"


def circumstances(started: float) -> Row:
    """The circumstances of a series that began at `started` (seconds since the epoch)."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=PACK, capture_output=True, text=True).stdout
    minutes = round((time.time() - started) / 60, 1)
    return {
        "commit": commit.strip(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "minutes_of_this_process": minutes,
    }


def write_tables(page: str, by: str, result: Row, **tables: str) -> None:
    """Put each table between its markers in `docs/<page>.md`, and every figure into `docs/<page>.json`."""
    path = DOCS / f"{page}.md"
    text = path.read_text(encoding="utf-8")
    for what, table in tables.items():
        text = filled(text, what, by, table, path)
    path.write_text(text, encoding="utf-8")
    (DOCS / f"{page}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options `--rows` and `--share`, which `each` reads."""
    parser.add_argument("--rows", type=Path, help="a .jsonl file that keeps the finished runs; they are not done again")
    parser.add_argument("--share", default="0/1", help="which part of the runs this process does: index/processes")


def add_processes(parser: argparse.ArgumentParser, processes: int) -> None:
    """The option `--processes`, which `divided` reads, and `--write`, which its processes must not obey."""
    parser.add_argument("--processes", type=int, default=processes, help="divide the runs between so many")
    parser.add_argument("--write", action=argparse.BooleanOptionalAction, default=False, help="store it all in docs/")


def finished(path: Path | None) -> dict[str, Row]:
    """The rows of a file of rows, by their keys as JSON; none without a file."""
    if path is None or not path.exists():
        return {}
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {json.dumps(row["key"]): row for row in rows}


def divided(module: str, keys: Sequence[Sequence[Any]], arguments: argparse.Namespace) -> list[Row]:
    """The rows that `arguments.processes` processes compute for the keys without a row, each for its part of them: the
    program `module` with the arguments of this one. Their rows go into the file of rows, if there is one, also when it is
    stopped; their output goes to standard error. No row and no process if there is not enough work for two.

    Raises SystemExit if one of them fails.
    """
    before = finished(arguments.rows)
    processes = min(arguments.processes, sum(json.dumps(key) not in before for key in keys))
    if processes < 2:
        return []
    with tempfile.TemporaryDirectory(prefix="concept-erasure-") as folder:
        files = [Path(folder, f"{index}.jsonl") for index in range(processes)]
        for file in files:  # so that no process does again what is finished
            file.write_text("".join(json.dumps(row) + "\n" for row in before.values()), encoding="utf-8")
        lines = [_command(module, file, f"{index}/{processes}") for index, file in enumerate(files)]
        one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
        children = [subprocess.Popen(line, cwd=PACK, env=one_thread, stdout=sys.stderr) for line in lines]
        try:
            failed = [line for line, child in zip(lines, children, strict=True) if child.wait() != 0]
        finally:
            for child in children:
                child.kill()
            found = {name: row for file in files for name, row in finished(file).items() if name not in before}
            for row in found.values():
                _keep(arguments.rows, row)
    if failed:
        raise SystemExit(f"a process failed, its words are above: {' '.join(failed[0])}")
    return list(found.values())


def _command(module: str, file: Path, share: str) -> list[str]:
    """This program again, for one share of the runs, whose rows go into `file`."""
    line = [sys.executable, "-m", module, *sys.argv[1:], "--no-write", "--processes", "1"]
    return [*line, "--share", share, "--rows", str(file)]


def mean_of(values: Sequence[float | None]) -> float | None:
    """The mean of the values that are there, to one decimal place; None without any."""
    present = [value for value in values if value is not None]
    return round(statistics.mean(present), 1) if present else None


def _keep(path: Path | None, row: Row) -> None:
    if path is not None:
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def shown(*given: Any, **named: Any) -> list[Row]:
    """The rows of `each`, which takes the same arguments; each is printed when it is there."""
    rows = []
    for row in each(*given, **named):
        rows.append(row)
        print(f"# {json.dumps(row)}", flush=True)
    return rows


def each(
    keys: Sequence[Sequence[Any]],
    arguments: argparse.Namespace,
    run: Callable[..., Row],
    done: Sequence[Row] = (),
    together: Callable[[Sequence[Any]], Any] = tuple,
) -> Iterator[Row]:
    """`run(*key)` for each key of this process's share, or its row from the file or from `done`; each row gets its `key`. Keys
    for which `together` says the same are of one share."""
    share, shares = (int(part) for part in arguments.share.split("/"))
    mine = set(list(dict.fromkeys(map(together, keys)))[share::shares])
    found = finished(arguments.rows) | {json.dumps(row["key"]): row for row in done}
    for key in (key for key in keys if together(key) in mine):
        name = json.dumps(key)
        if name not in found:
            found[name] = {"key": list(key)} | run(*key)
            _keep(arguments.rows, found[name])
        yield found[name]
