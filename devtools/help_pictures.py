"""Take the picture that each help page shows: its node, as the page draws it.

    python -m devtools.help_pictures

Run this when a node's widgets have changed. It needs a browser (see `devtools.serving.browser`).
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from .hosting import comfyui
from .hosting.errors import ToolError
from .method_docs import HELP
from .serving import browser, server

SCRIPT = Path(__file__).with_suffix(".mjs")


def main() -> int:
    """Write `web/docs/<Node>.jpg` for every node with a help page; 0, or 1 with the reason on standard error."""
    kinds = sorted(page.parent.name for page in HELP.glob("*/en.md"))
    try:
        with (
            tempfile.TemporaryDirectory(prefix="concept-erasure-") as base,
            server.running_server(comfyui.ensure(), Path(base)) as running,
        ):
            browser.run(SCRIPT, {"url": running.url, "folder": str(HELP), "kinds": kinds})
    except (ToolError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(HELP)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
