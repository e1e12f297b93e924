"""Run a script in node that drives a headless Chromium on ComfyUI's page. Standard library only.

Node.js, npm and Chromium come from the system; the one package that joins them is installed into our cache.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from ..hosting.errors import ToolError
from ..hosting.install import cache
from ..hosting.lock import locked

DRIVER = "playwright-core"
DRIVER_VERSION = "1.65.1"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
"""Names of the browser, unless `$CONCEPT_ERASURE_CHROMIUM` names it."""


class BrowserError(ToolError):
    """There is no browser, or a script in it failed; the message is its output."""


def missing() -> str | None:
    """Why no browser can be driven here and what to install, or None."""
    lacking = [name for name in ("node", "npm") if shutil.which(name) is None]
    lacking += [] if _chromium() else ["chromium"]
    if not lacking:
        return None
    return f"{', '.join(lacking)} not found; on Debian and Ubuntu: apt-get install nodejs npm chromium"


def run(script: Path, given: dict, timeout: float = 600.0) -> Any:
    """The value that a script hands back by `answer` of page.mjs; `given` is its `input`.

    Raises BrowserError if there is no browser, or with the end of its output if the script fails or takes too long.
    """
    places = {"CE_PLAYWRIGHT": str(driver() / "package.json"), "CE_CHROMIUM": _chromium()}
    try:
        done = subprocess.run(
            ["node", str(script)],
            env=os.environ | places,
            input=json.dumps(given),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        output = error.stdout or ""  # bytes, although text is asked for (CPython issue 87597)
        text = output.decode(errors="replace") if isinstance(output, bytes) else output
        raise BrowserError(f"{script.name} took more than {timeout:.0f} s; it said: {text[-2000:]}") from error
    if done.returncode != 0:
        raise BrowserError(f"{script.name} failed:\n{(done.stdout + done.stderr).strip()[-4000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def _chromium() -> str | None:
    named = os.environ.get("CONCEPT_ERASURE_CHROMIUM")
    return named or next(filter(None, map(shutil.which, CHROMIUM)), None)


def driver() -> Path:
    """The folder from which a script can load the driver, installed if need be. Raises BrowserError if it cannot be."""
    why_not = missing()
    if why_not:
        raise BrowserError(why_not)
    folder = cache() / f"browser-{DRIVER_VERSION}"
    with locked(
        cache() / "browser.lock", lambda: print("another process is installing the browser's driver", flush=True)
    ):
        if not (folder / "node_modules" / DRIVER / "package.json").is_file():
            folder.mkdir(parents=True, exist_ok=True)
            line = ["npm", "install", "--prefix", str(folder), "--ignore-scripts", "--no-audit", "--no-fund"]
            done = subprocess.run([*line, f"{DRIVER}@{DRIVER_VERSION}"], capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise BrowserError(f"npm could not install {DRIVER}: {(done.stdout + done.stderr).strip()[-1000:]}")
    return folder
