"""The newest ComfyUI with a stand-in for GitHub: what is downloaded, and in what the tests are run."""

from __future__ import annotations

import io
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from erasure_tests.hosts import make_comfyui

from devtools import newest_host
from devtools.hosting import install
from devtools.hosting.errors import ToolError

TAG = "v9.9.9"


class GitHub:
    """Pages by path: text is a redirect, bytes are an answer, anything else is not found. Notes what was asked for."""

    def __init__(self, pages: dict[str, str | bytes]) -> None:
        self.pages, self.asked = pages, []
        github = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                github.asked.append(self.path)
                page = github.pages.get(self.path)
                self.send_response(404 if page is None else 302 if isinstance(page, str) else 200)
                if isinstance(page, str):
                    self.send_header("Location", page)
                self.end_headers()
                self.wfile.write(page if isinstance(page, bytes) else b"")

            def log_message(self, *_: object) -> None:
                """Nothing on the terminal."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


def archive_of(folder: Path) -> bytes:
    """A folder as GitHub packs it."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        tar.add(folder, f"ComfyUI-{TAG[1:]}")
    return packed.getvalue()


@pytest.fixture
def github(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GitHub]:
    """A release `TAG`, and an empty cache."""
    stand_in = GitHub({
        "/releases/latest": f"/releases/tag/{TAG}",
        f"/releases/tag/{TAG}": b"",
        f"/archive/refs/tags/{TAG}.tar.gz": archive_of(make_comfyui(tmp_path / "source")),
    })  # fmt: skip
    monkeypatch.setenv("CONCEPT_ERASURE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(newest_host, "REPOSITORY", stand_in.url)
    thread = threading.Thread(target=stand_in.server.serve_forever)
    thread.start()
    yield stand_in
    stand_in.server.shutdown()
    thread.join()
    stand_in.server.server_close()


def test_the_newest_release_is_downloaded_once(github: GitHub) -> None:
    place = newest_host.downloaded(newest_host.newest_release())
    assert install.is_comfyui(place) and place.parent == install.cache()
    assert [path.name for path in install.cache().iterdir()] == [place.name], "something is left behind"
    before = list(github.asked)
    assert newest_host.downloaded(TAG) == place and github.asked == before
    (place / "main.py").unlink()
    newest_host.downloaded(TAG)
    assert install.is_comfyui(place), "a damaged download was trusted"


def test_what_is_no_release_or_no_comfyui_is_named(github: GitHub, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    github.pages[f"/archive/refs/tags/{TAG}.tar.gz"] = archive_of(tmp_path / "other")
    with pytest.raises(ToolError, match="holds no ComfyUI"):
        newest_host.downloaded(TAG)
    github.pages["/releases/latest"] = "/releases"
    github.pages["/releases"] = b""
    with pytest.raises(ToolError, match="not to a release"):
        newest_host.newest_release()


def test_the_tests_run_in_it_and_their_exit_code_is_handed_on(github: GitHub, tmp_path: Path, monkeypatch) -> None:
    told = tmp_path / "told"

    def make_venv(venv: Path, comfyui: Path) -> None:
        python = install.venv_python(venv)
        python.parent.mkdir(parents=True)
        python.write_text(f'#!/bin/sh\necho "$COMFYUI_PATH|$COMFYUI_PYTHON|$*" > {told}\nexit 3\n', encoding="utf-8")
        python.chmod(0o755)

    monkeypatch.setattr(install, "ensure_venv", make_venv)
    assert newest_host.main(["-x"]) == 3
    place = newest_host.downloaded(TAG)
    python = install.venv_python(install.venv_for(place))
    assert told.read_text(encoding="utf-8").strip() == f"{place}|{python}|-m pytest -rs -m not slow -x"


def test_without_github_the_command_says_so_in_one_line(github: GitHub, capsys) -> None:
    github.pages.clear()
    assert newest_host.main([]) == 1
    assert capsys.readouterr().err.startswith("error: HTTP Error 404")
