"""How much memory a run takes."""

from __future__ import annotations

import threading

import psutil
import torch


class MemoryMeter:
    """Peak memory, in bytes, that was used inside `with` beyond what was in use on entering it.

    On a GPU what torch allocated there; else the resident memory of the process, looked at every 20 ms.
    """

    def __init__(self, device: torch.device) -> None:
        self.peak = 0
        self._device = device
        self._done = threading.Event()

    def _in_use(self) -> int:
        if self._device.type == "cuda":
            return torch.cuda.memory_allocated(self._device)
        return psutil.Process().memory_info().rss

    def _watch(self, before: int) -> None:
        while not self._done.wait(0.02):
            self.peak = max(self.peak, self._in_use() - before)

    def __enter__(self) -> MemoryMeter:
        self._before = self._in_use()
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            self._watcher = threading.Thread(target=self._watch, args=(self._before,), daemon=True)
            self._watcher.start()
        return self

    def __exit__(self, *_error: object) -> None:
        if self._device.type == "cuda":
            self.peak = torch.cuda.max_memory_allocated(self._device) - self._before
        else:
            self._done.set()
            self._watcher.join()
