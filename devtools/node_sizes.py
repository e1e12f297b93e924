"""Measure the least size at which the browser draws the nodes of our workflows, and keep it for `devtools.make_workflows`.

    python -m devtools.node_sizes

Run this, then `devtools.make_workflows`, when a node's widgets have changed. It needs a browser (see
`devtools.serving.browser`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from . import make_workflows
from .hosting.errors import in_one_line
from .serving import browser, server
from .workflows.api_prompt import DYNAMIC_COMBO
from .workflows.layout import SIZES, size_key
from .workflows.widgets import widgets

SCRIPT = Path(__file__).with_name("measure_nodes.mjs")
WITHOUT_ROWS = ("MarkdownNote", "Note")  # as large as their text is long


def measured(running: server.Server) -> dict[str, list[int]]:
    """The least size of each node of all workflows, by `layout.size_key`, as the page of a running server says."""
    info = server.object_info(running)
    made = {path.stem: json.loads(text) for path, text in make_workflows.texts(info).items()}
    found = browser.run(SCRIPT, {"url": running.url, "workflows": made})
    sizes: dict[str, list[int]] = {}
    for node in found:
        if node["kind"] in WITHOUT_ROWS:
            continue
        key = _key(node, info)
        least = [math.ceil(side) for side in node["least"]]
        sizes[key] = [max(pair) for pair in zip(least, sizes.get(key, least), strict=True)]
    return dict(sorted(sizes.items()))


def _key(node: dict, info: dict) -> str:
    spec = info[node["kind"]]["input"] if node["kind"] in info else {}
    shown = widgets(spec, dict(node["values"]))
    return size_key(node["kind"], [widget.value for widget in shown if widget.kind == DYNAMIC_COMBO])


@in_one_line
def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write; 0, or 1 with the reason on standard error."""
    with server.temporary_server() as running:
        sizes = measured(running)
    rows = ",\n".join(f"  {json.dumps(key)}: {json.dumps(size)}" for key, size in sizes.items())
    SIZES.write_text(f"{{\n{rows}\n}}\n", encoding="utf-8")
    print(SIZES)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
