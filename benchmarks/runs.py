"""Long series of runs that can be stopped, continued, and divided between processes."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from devtools.comfyui import PACK
from devtools.pages import filled

Row = dict[str, Any]
DOCS = PACK / "docs"


def circumstances(started: float) -> Row:
    """What a later reader needs to know of a series that began at `started` (seconds since the epoch)."""
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


def _finished(path: Path | None) -> dict[str, Row]:
    if path is None or not path.exists():
        return {}
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {json.dumps(row["key"]): row for row in rows}


def each(keys: Sequence[Sequence[Any]], arguments: argparse.Namespace, run: Callable[..., Row]) -> Iterator[Row]:
    """`run(*key)` for each key of this process's share, or its row from the file; each row gets its `key`."""
    share, shares = (int(part) for part in arguments.share.split("/"))
    finished = _finished(arguments.rows)
    for key in keys[share::shares]:
        name = json.dumps(key)
        if name not in finished:
            finished[name] = {"key": list(key)} | run(*key)
            if arguments.rows:
                with open(arguments.rows, "a", encoding="utf-8") as file:
                    file.write(json.dumps(finished[name]) + "\n")
        yield finished[name]
