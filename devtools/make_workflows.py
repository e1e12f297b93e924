"""Write the workflows and blueprints as the browser saves them, with the defaults that the nodes have now.

    python -m devtools.make_workflows

A workflow holds widget values by position, so that a setting added to a method moves those behind it. Written from the
server's own `object_info` the files cannot fall behind; run this after a change of a node's inputs or defaults, of the
pack's version, or of the sizes at which the browser draws nodes (`devtools.node_sizes`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from .hosting import comfyui
from .serving import server
from .workflows import first_steps, mechanisms, real, whole
from .workflows.graph import dumps

FOLDER = comfyui.PACK / "workflows"
BLUEPRINTS = comfyui.PACK / "subgraphs"

Maker = Callable[[dict], dict]

TITLED: dict[Maker, str] = {
    real.sd15: "SD 1.5 - erase and compare",
    real.sdxl: "SDXL - erase and compare",
    real.flux: "Flux - erase and compare",
    first_steps.erase_and_compare: "Picture book - erase and compare",
    first_steps.find_adversarial_and_retain: "Picture book - find what an erasure hurts and retain it",
    first_steps.apply_at_three_strengths: "Playground - one edit at three strengths",
    first_steps.stock_lora_loader: "Playground - an edit in the stock LoRA loader",
    first_steps.evaluate: "Picture book - measure an edit",
    first_steps.red_team: "Picture book - attack an edit",
    whole.erase_measure_attack_save: "Picture book - erase, measure, attack, save",
    mechanisms.closed_form_in_seconds: "Playground - closed form in seconds",
    mechanisms.gated_by_the_prompt: "Playground - gated by the prompt",
    mechanisms.sae_features: "Playground - features of an autoencoder",
    mechanisms.side_network: "Playground - a side network",
    mechanisms.hide_behind_a_key: "Playground - hide behind a key",
    mechanisms.open_with_the_key: "Playground - open with the key",
    mechanisms.modular_lora: "Playground - a LoRA beside the erasure",
}
"""The title of each maker's workflow in the Templates dialog, in the order there."""
MAKERS = tuple(TITLED)
REAL = ("sd15", "sdxl", "flux")
"""Those for a checkpoint that this project does not have."""
NEEDS = {
    "open_with_the_key": "hide_behind_a_key",
}
"""A workflow that loads a file, and the one that saves it."""
BLUEPRINT_TITLES: dict[Maker, str] = {
    real.erase_and_compare_blueprint: "Erase and compare",
    real.erase_and_measure_blueprint: "Erase and measure",
}

_STEMS = {make.__name__: f"{number:02} {title}" for number, (make, title) in enumerate(TITLED.items(), 1)}


def path_of(name: str, ending: str = ".json") -> Path:
    """The file of a workflow, or its thumbnail, by the name of its maker: the dialog shows file names, and by number."""
    return FOLDER / f"{_STEMS[name]}{ending}"


def workflow(name: str) -> dict:
    """A workflow of the repository, by the name of its maker."""
    return json.loads(path_of(name).read_text(encoding="utf-8"))


def texts(object_info: dict) -> dict[Path, str]:
    """The text that each file in `workflows/` and `subgraphs/` should have."""
    files = {path_of(make.__name__): make for make in MAKERS}
    files |= {BLUEPRINTS / f"{title}.json": make for make, title in BLUEPRINT_TITLES.items()}
    return {path: dumps(make(object_info)) for path, make in files.items()}


def ask_for_nodes() -> dict:
    """The host server's description of its nodes."""
    with server.temporary_server() as running:
        return server.object_info(running)


def main() -> int:
    """Ask a server what the nodes are, and write the files; remove what has no maker any more."""
    written = texts(ask_for_nodes())
    for folder in (FOLDER, BLUEPRINTS):
        folder.mkdir(exist_ok=True)
        for path in folder.glob("*.json"):
            if path not in written:
                path.unlink()
    for path, text in written.items():
        path.write_text(text, encoding="utf-8")
        print(path)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
