"""Where a CPU is faster in half precision than in float32."""

from __future__ import annotations

import platform

import torch


def cpu_computes_in_bf16() -> bool:
    """Whether this CPU has instructions for bfloat16.

    On x86 torch also supports it where they are only imitated, two to seven times slower than float32.
    """
    if not (torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()):
        return False
    on_x86 = platform.machine().lower() in ("x86_64", "amd64")
    # older versions of torch cannot say: float32 is never far behind
    native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return native() if on_x86 else True
