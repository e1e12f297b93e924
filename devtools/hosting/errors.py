"""How a command of this repository fails: with one line instead of a traceback."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from typing import Protocol


class Main(Protocol):
    """A command: its arguments, by default those of the process, to its exit code."""

    def __call__(self, argv: Sequence[str] | None = None) -> int: ...


class ToolError(RuntimeError):
    """Something outside the code is wrong; the message says what and what to do."""


def in_one_line(main: Main) -> Main:
    """`main`, but a ToolError or OSError is printed to standard error in one line, and the exit code is then 1."""

    @functools.wraps(main)
    def wrapped(argv: Sequence[str] | None = None) -> int:
        try:
            return main(argv)
        except (ToolError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1

    return wrapped
