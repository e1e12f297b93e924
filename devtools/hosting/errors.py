"""What a command of this folder may fail with, said in one line instead of a traceback."""

from __future__ import annotations


class ToolError(RuntimeError):
    """Something outside the code is wrong; the message says what and what to do."""
