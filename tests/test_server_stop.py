"""A server never outlives who started it, and never shares its folder; with a small program in ComfyUI's place."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from erasure_tests.hosts import make_comfyui

from devtools.hosting.comfyui import Host
from devtools.serving import child_guard, server
from testbed import files

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals and process groups are those of Unix")

# Answers every address, has a child as a node may, and leaves its id. With `stubborn`, neither ends when asked to.
STAND_IN = """
import http.server, os, pathlib, signal, subprocess, sys
def value(option):
    return sys.argv[sys.argv.index(option) + 1]
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
if "--stubborn" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
pathlib.Path(value("--base-directory"), "process").write_text(str(os.getpid()))
print("started", flush=True)
http.server.HTTPServer(("127.0.0.1", int(value("--port"))), Answer).serve_forever()
"""


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """A folder that passes for a ComfyUI and runs the stand-in."""
    yield Host(make_comfyui(tmp_path / "ComfyUI", main=STAND_IN), Path(sys.executable), "env")
    for process in psutil.process_iter(["cmdline"]):  # a test that failed shall not leave what it tests for
        if any(str(tmp_path) in argument for argument in process.info["cmdline"] or ()):
            os.killpg(process.pid, signal.SIGKILL)


def members(base: Path) -> list[psutil.Process]:
    """What runs of the server of a base directory: itself and its children."""
    group, found = int((base / "process").read_text()), []
    for process in psutil.process_iter():
        try:
            # where the first process of a container does not collect orphans, they stay listed as zombies
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, PermissionError, psutil.Error):
            continue
    return found


def wait_until(holds: Callable[[], bool]) -> bool:
    """Whether something comes true within ten seconds."""
    deadline = time.monotonic() + 10.0
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.05)
    return holds()


def has_ended(base: Path) -> bool:
    """Whether nothing is left of the server of a base directory; a process takes a moment to be gone when killed."""
    return wait_until(lambda: not members(base))


@pytest.fixture
def serve(host: Host, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen]]:
    """Starts `make serve`, or what it starts, as a process of its own; returns once it shows the address."""
    models = tmp_path / "cache" / "models"
    for file in (*files.built_files(), *files.built_book_files()):
        (models / file).parent.mkdir(parents=True, exist_ok=True)
        (models / file).touch()
    (models / files.STAMP).write_text(files._sources(), encoding="utf-8")
    (models / files.BOOK_STAMP).write_text(files._book_sources(), encoding="utf-8")
    named = {"COMFYUI_PATH": host.path, "COMFYUI_PYTHON": host.python, "CONCEPT_ERASURE_CACHE": tmp_path / "cache"}
    # as from a shell, also when these tests themselves were started by make
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    environment |= {name: str(value) for name, value in named.items()}
    started: list[subprocess.Popen] = []

    def as_from_a_terminal() -> None:
        for name in (signal.SIGINT, signal.SIGHUP):  # whoever runs the tests in the background may ignore them
            signal.signal(name, signal.SIG_DFL)

    def start(*line: str) -> subprocess.Popen:
        process = subprocess.Popen(
            line,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=as_from_a_terminal,
        )
        started.append(process)
        said = []
        for text in process.stdout:
            said.append(text)
            if text.startswith("log: "):
                return process
        return pytest.fail("".join(said))

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


SERVE = (sys.executable, "-m", "testbed.serve")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGKILL"])
def test_nothing_is_left_after_a_signal(name: str, serve: Callable, tmp_path: Path) -> None:
    base = tmp_path / "cache" / "serve"
    process = serve(*SERVE)
    assert len(members(base)) == 2
    os.killpg(process.pid, getattr(signal, name))  # as a terminal does
    codes = {"SIGINT": 0, "SIGTERM": 128 + signal.SIGTERM, "SIGHUP": 128 + signal.SIGHUP, "SIGKILL": -signal.SIGKILL}
    assert process.wait(timeout=10) == codes[name]
    assert has_ended(base)


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_nothing_is_left_when_make_itself_is_killed(serve: Callable, tmp_path: Path) -> None:
    process = serve("make", "serve", f"FINDER={sys.executable}")
    process.kill()
    assert has_ended(tmp_path / "cache" / "serve")


def test_without_make_it_serves_on_when_its_shell_is_gone_and_under_nohup(serve: Callable, tmp_path: Path) -> None:
    shell = serve("sh", "-c", """trap '' HUP; "$0" "$@" & wait""", *SERVE)
    (serving,) = psutil.Process(shell.pid).children()
    shell.kill()
    shell.wait()
    serving.send_signal(signal.SIGHUP)
    time.sleep(1.5)  # three of its looks
    assert len(members(tmp_path / "cache" / "serve")) == 2
    serving.terminate()
    assert has_ended(tmp_path / "cache" / "serve")


def test_the_end_of_the_block_stops_the_children_too(host: Host, tmp_path: Path) -> None:
    with server.running_server(host, tmp_path / "base", pack=None) as running:
        assert {running.process.pid} < {process.pid for process in members(tmp_path / "base")}
    assert has_ended(tmp_path / "base")


def test_a_server_that_does_not_end_when_asked_is_killed(host: Host, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(child_guard, "PATIENCE", 0.5)
    with server.running_server(host, tmp_path / "base", pack=None, extra_args=("--stubborn",)) as running:
        began = time.monotonic()
    assert time.monotonic() - began >= 0.5 and running.process.returncode == -signal.SIGKILL
    assert has_ended(tmp_path / "base")


def test_an_error_in_the_block_stops_the_server_and_passes_on(host: Host, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), server.running_server(host, tmp_path / "base", pack=None):
        _ = 1 / 0
    assert has_ended(tmp_path / "base")


def test_a_second_server_in_the_same_folder_is_refused_and_changes_nothing(host: Host, tmp_path: Path) -> None:
    base, packs = tmp_path / "base", [tmp_path / "one", tmp_path / "another"]
    for pack in packs:
        pack.mkdir()
    link = base / "custom_nodes" / server.PACK_NAME
    with server.running_server(host, base, pack=packs[0]) as first:
        assert wait_until(lambda: "started" in first.log.read_text())
        with (
            pytest.raises(server.ServerError, match=f"in use by {first.url}"),
            server.running_server(host, base, pack=packs[1]),
        ):
            pytest.fail("two servers in one folder")
        assert link.resolve() == packs[0] and "started" in first.log.read_text() and first.process.poll() is None
        with server.running_server(host, tmp_path / "other base", pack=packs[1]) as beside:
            assert beside.url != first.url
    with server.running_server(host, base, pack=packs[1]):
        assert link.resolve() == packs[1]


def test_a_second_serve_names_the_first(serve: Callable, tmp_path: Path) -> None:
    serve(*SERVE)
    url = (tmp_path / "cache" / "serve" / "server.url").read_text(encoding="utf-8")
    with pytest.raises(pytest.fail.Exception, match=f"error: .* is in use by {url}. Use that server, or stop it first"):
        serve(*SERVE)
    assert len(members(tmp_path / "cache" / "serve")) == 2
