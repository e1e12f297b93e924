"""One erasure method a file; `method.methods()` finds them all.

Importing a module registers what it defines. The list is written by `python -m devtools.registries`.
"""

from . import (
    age,
    all_but_one,
    ap,
    ap_reference,
    concept_ablation,
    degeneration,
    dumo,
    esd,
    forget_me_not,
    kpop,
    mace,
    modular_lora,
    rece,
    saeuron,
    sdd,
    spm,
    uce,
)

__all__ = [
    "age",
    "all_but_one",
    "ap",
    "ap_reference",
    "concept_ablation",
    "degeneration",
    "dumo",
    "esd",
    "forget_me_not",
    "kpop",
    "mace",
    "modular_lora",
    "rece",
    "saeuron",
    "sdd",
    "spm",
    "uce",
]
