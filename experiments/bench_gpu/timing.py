"""Time and memory of work on a device."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Timing:
    """Seconds of one action: the median of several runs, and how far they spread."""

    seconds: float
    fastest: float
    slowest: float


@dataclass(frozen=True)
class Clock:
    """Times actions on a device, after runs that are not counted (kernels load and compile in the first ones)."""

    device: torch.device
    warmup: int = 2
    repeats: int = 7

    def time(self, action: Callable[[], object]) -> Timing:
        """Run the action ``warmup + repeats`` times; the device is idle before and after each counted run."""
        for _ in range(self.warmup):
            action()
        seconds = [self._once(action) for _ in range(self.repeats)]
        return Timing(statistics.median(seconds), min(seconds), max(seconds))

    def _once(self, action: Callable[[], object]) -> float:
        if self.device.type != "cuda":
            started = time.perf_counter()
            action()
            return time.perf_counter() - started
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(self.device)
        first.record()
        action()
        last.record()
        torch.cuda.synchronize(self.device)
        return first.elapsed_time(last) / 1000.0

    def reset_peak(self) -> None:
        """Begin a new measurement of peak memory."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak_bytes(self) -> int | None:
        """Most memory in tensors since ``reset_peak``; None on a CPU, where PyTorch does not count it."""
        return torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else None


def or_out_of_memory(row: dict[str, Any], measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The row with what ``measure`` returns, or with an "error" when the device's memory did not suffice."""
    try:
        return row | measure()
    except RuntimeError as error:
        # cuBLAS and cuDNN ask for their workspaces themselves, and report a failure in their own way.
        if not isinstance(error, torch.OutOfMemoryError) and "ALLOC_FAILED" not in str(error):
            raise
    release_memory()  # not in the handler: the traceback holds the tensors of the failed action until it ends
    return row | {"error": "out of memory"}


def release_memory() -> None:
    """Give unused memory back to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
