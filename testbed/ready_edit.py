"""The last step of `make playground` and of `make picture-book`: erase "circle" from the playground, or "cat" from the
picture book, and keep the edit beside the weights, so that the workflows which load an edit find one.

    python -m testbed.ready_edit [--world picture_book]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from .files import BOOK_EDIT_WEIGHTS, EDIT_WEIGHTS


def main(argv: Sequence[str] | None = None) -> int:
    """Erase, and write the file."""
    parser = argparse.ArgumentParser(
        prog="python -m testbed.ready_edit", description="Make the edit that workflows load."
    )
    parser.add_argument("--world", choices=("playground", "picture_book"), default="playground")
    on_the_book = parser.parse_args(argv).world == "picture_book"
    # only now: they load torch and ComfyUI
    from testbed.playground import erase_once, load_picture_book, load_playground

    load, target, path = (
        (load_picture_book, "cat", BOOK_EDIT_WEIGHTS) if on_the_book else (load_playground, "circle", EDIT_WEIGHTS)
    )
    _, _, erased = erase_once(load(), "ap", [target], 0, encoded={})
    from concept_erasure.erasure_core.erased_unet import save_erased_unet

    save_erased_unet(erased, path)
    print(path)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
