"""Take the picture that each help page shows: its node, as the page draws it.

    python -m devtools.help_pictures

Run this when a node's widgets have changed. It needs a browser (see `devtools.serving.browser`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .hosting.errors import in_one_line
from .method_docs import HELP
from .serving import browser, server

SCRIPT = Path(__file__).with_suffix(".mjs")


@in_one_line
def main(argv: Sequence[str] | None = None) -> int:
    """Write `web/docs/<Node>.jpg` for every node with a help page; 0, or 1 with the reason on standard error."""
    kinds = sorted(page.parent.name for page in HELP.glob("*/en.md"))
    with server.temporary_server() as running:
        browser.run(SCRIPT, {"url": running.url, "folder": str(HELP), "kinds": kinds})
    print(HELP)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
