"""A lock that holds across processes and is freed by the system when its holder dies. Standard library only."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path


@contextlib.contextmanager
def locked(path: Path, on_busy: Callable[[], None]) -> Iterator[None]:
    """Hold the lock on a file, made if need be.

    If somebody else has it, `on_busy` is called once: it says so and the lock is waited for, or it raises and it is not.
    Children started with `close_fds=False` share it, so that a pip whose parent was killed still keeps others out.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as handle:
        waiting = False
        while not _try_lock(handle.fileno()):
            if not waiting:
                on_busy()
            waiting = True
            time.sleep(1.0)
        os.set_inheritable(handle.fileno(), True)
        yield


def _try_lock(descriptor: int) -> bool:
    """Take the lock on an open file if nobody else holds it."""
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
