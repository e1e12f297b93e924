"""The last step of `make playground`: erase "circle" from the new checkpoint and keep the edit beside the weights, so that
the workflows which load an edit find one.

    python -m testbed.ready_edit
"""

from __future__ import annotations

from .files import EDIT_WEIGHTS


def main() -> int:
    """Erase, and write the file."""
    # only now: they load torch and ComfyUI
    from testbed.playground import erase_once, load_playground

    testbed = load_playground()
    _, _, erased = erase_once(testbed, "ap", ["circle"], 0, encoded={})
    from concept_erasure.erasure_core.erased_unet import save_erased_unet

    save_erased_unet(erased, EDIT_WEIGHTS)
    print(EDIT_WEIGHTS)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
