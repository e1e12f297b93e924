"""Residuals on a UNet's skip connections, computed by its own encoder in a separate pass before the real one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn

from ..denoiser import Denoiser
from ..inference import changed, recorded

_SIDE_PASS: ContextVar[bool] = ContextVar("side_pass", default=False)


class _Enough(BaseException):
    """The encoder is through; the decoder's answer is not wanted. No Exception, so that nobody on the way swallows it."""


def in_side_pass() -> bool:
    """True while somebody's side pass runs. Another edit of the skips has nothing to do then: the pass ends before the
    decoder, and its own deltas on the encoder would be taken for the network's."""
    return _SIDE_PASS.get()


def skip_features(encoder: Mapping[str, nn.Module], call: Callable[[], object]) -> list[Tensor]:
    """The outputs of the encoder blocks, in the order in which they are run; deltas attached before act on them.

    `call` runs the network; it is left as soon as the last block is done. Raises RuntimeError if it never got there.
    """
    enough = _Enough()
    last = list(encoder.values())[-1]

    def stop(_inputs: tuple, _output: Tensor) -> Tensor:
        raise enough

    token = _SIDE_PASS.set(True)
    try:
        with recorded(encoder) as outputs, changed({last: stop}):
            call()
    except _Enough as reached:
        if reached is not enough:
            raise
        enough.with_traceback(None)  # its frames would keep the activations alive
        return [outputs[name] for name in encoder]
    finally:
        _SIDE_PASS.reset(token)
    raise RuntimeError("the network was called and did not run its last encoder block; this is no UNet with skips")


@contextmanager
def added_to_skips(decoder: Mapping[str, nn.Module], residuals: Sequence[Tensor]) -> Iterator[None]:
    """Inside, each residual (n, channels, ...), given in the encoder's order, is added to its skip: to the last channels
    of what a decoder block reads, the last skip first. Raises ValueError if there are not as many blocks as residuals."""
    if len(decoder) != len(residuals):
        raise ValueError(f"the network has {len(decoder)} decoder blocks, the edit {len(residuals)} residuals of skips")

    def adder(residual: Tensor) -> Callable[[tuple], tuple]:
        def add(inputs: tuple) -> tuple:
            stream, *others = inputs
            main = stream.shape[1] - residual.shape[1]
            skip = stream[:, main:] + residual.to(stream.dtype)
            return (torch.cat([stream[:, :main], skip], 1), *others)

        return add

    pairs = zip(decoder.values(), reversed(residuals), strict=True)
    with changed(inputs={module: adder(residual) for module, residual in pairs}):
        yield


def encoder_layers(denoiser: Denoiser) -> dict[str, nn.Module]:
    """Every Linear and convolution of the network's encoder blocks."""
    blocks = [name.rsplit(".", 1)[0] for name in denoiser.blocks("encoder")]
    owners = tuple(f"{name}." for name in blocks)
    return {n: layer for n, layer in denoiser.layers("all").items() if n in blocks or n.startswith(owners)}
