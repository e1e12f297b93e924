"""Long series of runs that can be stopped, continued, and divided between processes."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]


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
