"""In what precision the playground is trained and drawn on this CPU."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def fast_precision() -> AbstractContextManager:
    """bf16 where the CPU multiplies it natively, else float32: elsewhere a convolution in bf16 takes some twenty times as
    long."""
    fast = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.autocast("cpu", torch.bfloat16) if fast else nullcontext()
