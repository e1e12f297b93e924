"""See that a process and its children end when we do, even if we are killed. Standard library only.

A process that is killed outright runs no `finally`. So a second one, the guard, waits at a pipe that only we hold open,
and when we are gone it reads the pipe's end and kills the group that it watches. Linux has PR_SET_PDEATHSIG for this,
but that leaves the children of the watched process behind and fires when the thread ends that started it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

PATIENCE = 10.0  # seconds between asking a process to end and killing it


@contextlib.contextmanager
def guarding() -> Iterator[Callable[[int], None]]:
    """A function that puts the group of a process (by its id, the leader's) under guard until the block is left."""
    line = [sys.executable, "-m", __name__]
    with subprocess.Popen(
        line,
        cwd=Path(__file__).resolve().parents[2],
        stdin=subprocess.PIPE,
        start_new_session=True,  # what is sent to our whole group, from Ctrl-C to SIGKILL, must not reach the guard
        close_fds=False,  # a lock that we hold stays held until the guard has done its work
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as guard:
        try:
            yield lambda leader: print(leader, file=guard.stdin, flush=True)
        finally:
            guard.kill()  # before the pipe closes: the group is over, and its number may be somebody else's soon


def stop(process: subprocess.Popen) -> None:
    """End a process that leads a group, and the whole group: asked first, killed after `PATIENCE`."""
    try:
        if os.name != "nt":  # there, only killing can be asked for
            with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(process.pid, signal.SIGTERM)
                process.wait(timeout=PATIENCE)
    finally:  # also after a second Ctrl-C
        # The group outlives its leader as long as a child runs, so it is signalled even if the leader has ended.
        _kill_group(process.pid)
        process.wait()


def _kill_group(leader: int) -> None:
    if os.name == "nt":
        subprocess.run(["taskkill", "/T", "/F", "/PID", str(leader)], capture_output=True, check=False)
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def main() -> int:
    """The guard itself: the leader's id comes in the first line, and then nothing until our starter is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Windows, Ctrl-C reaches every process of the console
    leader = sys.stdin.readline()
    sys.stdin.read()
    if leader:
        _kill_group(int(leader))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
