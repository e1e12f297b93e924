"""Write the workflows as the browser saves them, with the defaults that the nodes have now.

    python -m devtools.make_workflows

A workflow holds widget values by position, so that a setting added to a method moves those behind it. Written from the
server's own `object_info` the files cannot fall behind; run this after a change of a node's inputs or defaults.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from . import comfyui, server
from .graph import dumps
from .sheets import first_steps, mechanisms, whole

FOLDER = comfyui.PACK / "workflows"

MAKERS: tuple[Callable[[dict], dict], ...] = (
    first_steps.erase_and_compare,
    first_steps.find_adversarial_and_retain,
    first_steps.apply_at_three_strengths,
    first_steps.stock_lora_loader,
    first_steps.evaluate,
    first_steps.red_team,
    whole.erase_measure_attack_save,
    mechanisms.closed_form_in_seconds,
    mechanisms.gated_by_the_prompt,
    mechanisms.sae_features,
    mechanisms.side_network,
    mechanisms.hide_behind_a_key,
    mechanisms.open_with_the_key,
    mechanisms.modular_lora,
)
NEEDS = {
    "open_with_the_key": "hide_behind_a_key",
}
"""A workflow that loads a file, and the one that saves it."""


def texts(object_info: dict) -> dict[str, str]:
    """What each file in `workflows/` should contain, by its name."""
    return {f"{make.__name__}.json": dumps(make(object_info)) for make in MAKERS}


def main() -> int:
    """Ask a server what the nodes are, and write the files."""
    with (
        tempfile.TemporaryDirectory(prefix="concept-erasure-") as base,
        server.running_server(comfyui.ensure(), Path(base)) as running,
    ):
        written = texts(server.object_info(running))
    FOLDER.mkdir(exist_ok=True)
    for name, text in written.items():
        (FOLDER / name).write_text(text, encoding="utf-8")
        print(FOLDER / name)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
