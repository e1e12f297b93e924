"""Expand the picture book's weights into what ComfyUI loads: a Stable Diffusion 1.5 checkpoint, and the judges."""

from __future__ import annotations

import argparse
from pathlib import Path

from devtools.hosting.inprocess import load_comfy

from ..build import write_checkpoint, write_judge
from . import weights


def build_checkpoint(path: Path, folder: Path = weights.FOLDER) -> None:
    """Write the checkpoint that stock Load Checkpoint detects as SD1.5; takes seconds."""
    write_checkpoint(path, weights.checkpoint_parts(folder))


def build_judges(path: Path, folder: Path = weights.FOLDER) -> None:
    """Write one transformers image classifier a factor, `<path>/thing` and `<path>/style`, with the accuracy on fresh
    renderings that was measured when it was trained: the pictures themselves are not in the repository."""
    for factor, judge in weights.stored_judges(folder).items():
        found = weights.stored_accuracy(folder)[factor]["fresh renderings"]
        write_judge(
            path / factor, judge, {"right": round(found.top1 * found.n), "n": found.n, "on": "fresh renderings"}
        )


def main() -> None:
    """Build what the arguments name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="checkpoint file to write")
    parser.add_argument("--judge", type=Path, help="folder to write the judges to")
    arguments = parser.parse_args()
    load_comfy()
    build_checkpoint(arguments.out)
    if arguments.judge:
        build_judges(arguments.judge)


if __name__ == "__main__":
    main()
