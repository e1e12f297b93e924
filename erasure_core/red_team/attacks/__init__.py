"""One attack a file; `attack.attacks()` finds them all.

Importing a module registers what it defines. The list is written by `python -m devtools.registries`.
"""

from . import (
    completion,
    img2img,
    inpaint,
    nearest_tokens,
    noise,
    null_inversion,
    p4d,
    paraphrase,
    relearn,
    ring_a_bell,
    textual_inversion,
    unlearn_diff,
)

__all__ = [
    "completion",
    "img2img",
    "inpaint",
    "nearest_tokens",
    "noise",
    "null_inversion",
    "p4d",
    "paraphrase",
    "relearn",
    "ring_a_bell",
    "textual_inversion",
    "unlearn_diff",
]
