"""Run workflows in a real ComfyUI server that loads this pack from a folder of its own.

The guarantee: a server started here is stopped here, with its children, however the `with` block is left and even if
this process is killed; the host's own folders are never written to. `client` holds what one can ask of it; all of it can
be reached from here.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..hosting.comfyui import PACK, Host, ensure
from ..hosting.lock import locked
from ..workflows.api_prompt import WorkflowError, api_prompt
from . import child_guard
from .client import (
    ExecutionFailed,
    Server,
    ServerError,
    check_alive,
    image_refs,
    interrupt,
    log_tail,
    object_info,
    queue,
    view,
    wait,
)

__all__ = [
    "ExecutionFailed",
    "Server",
    "ServerError",
    "WorkflowError",
    "api_prompt",
    "image_refs",
    "interrupt",
    "log_tail",
    "object_info",
    "queue",
    "running_server",
    "temporary_server",
    "view",
    "wait",
]

PACK_NAME = "concept-erasure"
MODEL_FOLDERS = ("checkpoints", "loras", "concept_judges", "erased_unets")
NOT_FOR_A_COPY = (".git", "tests", "benchmarks", "devtools", "playground", "testbed", "__pycache__", ".venv")


@contextlib.contextmanager
def running_server(
    host: Host,
    base_directory: Path,
    *,
    models_directory: Path | None = None,
    pack: Path | None = PACK,
    port: int | None = None,
    cpu: bool = True,
    extra_args: tuple[str, ...] = (),
    startup_timeout: float = 180.0,
) -> Iterator[Server]:
    """A ComfyUI that answers on 127.0.0.1 with `pack` loaded (None: stock nodes only), stopped on the way out.

    Models, inputs and outputs live under `base_directory`; `models_directory` takes the models from elsewhere.
    Raises ServerError with the end of the log if the server dies, is too slow, or could not import the pack, and with
    the address of the other server if one runs in the same `base_directory`.
    """
    base = Path(base_directory).absolute()
    port = port or _free_port()
    url = f"http://127.0.0.1:{port}"

    with _alone(base, url), child_guard.guarding() as watch, _log(base).open("wb") as output, _terminating_politely():
        _lay_out(base, pack)
        process = subprocess.Popen(
            _command(host, base, models_directory, port, cpu, extra_args),
            cwd=host.path,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that Ctrl-C reaches us first and the whole group can be stopped at once
        )

        try:
            watch(process.pid)
            server = Server(url, base, _log(base), process)
            _wait_until_ready(server, startup_timeout)
            if pack is not None:
                _check_pack(server)
            yield server
        finally:
            child_guard.stop(process)


@contextlib.contextmanager
def temporary_server(**options: Any) -> Iterator[Server]:
    """`running_server` of the host that is found or installed, in a base directory that is removed afterwards."""
    with (
        tempfile.TemporaryDirectory(prefix="concept-erasure-") as base,
        running_server(ensure(), Path(base), **options) as running,
    ):
        yield running


@contextlib.contextmanager
def _alone(base: Path, url: str) -> Iterator[None]:
    """Have a base directory to ourselves: a second server would link another pack and empty the log of the first."""
    address = base / "server.url"

    def refuse() -> None:
        other = address.read_text(encoding="utf-8") if address.is_file() else "a server that is just starting"
        raise ServerError(f"{base} is in use by {other}. Use that server, or stop it first.")

    with locked(base / "server.lock", refuse):
        address.write_text(url, encoding="utf-8")
        try:
            yield
        finally:
            address.unlink(missing_ok=True)


def _log(base: Path) -> Path:
    return base / "server.log"


def _lay_out(base: Path, pack: Path | None) -> None:
    """Make the base directory and put the pack into it, under the name users know it by."""
    for folder in ("input", "output", "temp", "user", "custom_nodes", *(f"models/{name}" for name in MODEL_FOLDERS)):
        (base / folder).mkdir(parents=True, exist_ok=True)
    link = base / "custom_nodes" / PACK_NAME
    if link.is_symlink():
        link.unlink()
    elif link.exists():
        shutil.rmtree(link)
    if pack is None:
        return
    try:
        link.symlink_to(pack, target_is_directory=True)
    except OSError:  # Windows without the right to make links
        shutil.copytree(pack, link, ignore=shutil.ignore_patterns(*NOT_FOR_A_COPY))


def _command(
    host: Host, base: Path, models: Path | None, port: int, cpu: bool, extra_args: tuple[str, ...]
) -> list[str]:
    """The command line: everything in `base`, nothing from the internet, no browser."""
    command = [str(host.python), "main.py", "--listen", "127.0.0.1", "--port", str(port)]
    command += ["--base-directory", str(base), "--database-url", "sqlite:///:memory:"]
    command += ["--disable-auto-launch", "--disable-api-nodes", "--preview-method", "none"]
    command += ["--cpu"] if cpu else []
    command += ["--models-directory", str(Path(models).absolute())] if models else []
    return [*command, *extra_args]


def _environment() -> dict[str, str]:
    """Our environment without what would put the repository's own `nodes` before ComfyUI's, and offline."""
    drop = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP")
    variables = {name: value for name, value in os.environ.items() if name not in drop}
    variables.setdefault("CONCEPT_ERASURE_PLAYGROUND", "0")  # what a server of ours needs is built before it starts
    return variables | {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8", "HF_HUB_OFFLINE": "1"}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_until_ready(server: Server, timeout: float) -> None:
    """Return when the server answers; raise if it ends or takes longer than `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        check_alive(server)
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{server.url}/queue", timeout=5).close()
            return
        time.sleep(0.2)
    raise ServerError(f"ComfyUI did not answer within {timeout:.0f} s. The end of {server.log}:\n{log_tail(server)}")


def _check_pack(server: Server) -> None:
    """ComfyUI starts without a pack that fails to import and only logs it; here that is an error."""
    text = server.log.read_text(encoding="utf-8", errors="replace")
    if any("IMPORT FAILED" in line and PACK_NAME in line for line in text.splitlines()):
        start = text.find("Traceback")
        cause = text[start:][-3000:] if start >= 0 else log_tail(server)
        raise ServerError(f"ComfyUI could not import the pack. From {server.log}:\n{cause}")


@contextlib.contextmanager
def _terminating_politely() -> Iterator[None]:
    """Turn a signal to end into SystemExit while a server runs, so that `finally` gets to stop it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(signum: int, _frame: object) -> None:
        raise SystemExit(128 + signum)

    # The server is in a session of its own, so that a terminal which closes would otherwise leave it behind.
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    # What is ignored stays so: `nohup` asks for a server that does outlive its terminal.
    before = {n: signal.signal(n, leave) for n in numbers if signal.getsignal(n) is not signal.SIG_IGN}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
