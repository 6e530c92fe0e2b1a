"""Machines for which times are predicted: published figures and the part of them that is reached, or this one measured.

A pass takes the longer of two times: the host's, which starts kernels one after another, and the device's, which
computes products and moves the bytes of everything else. A CPU does one after the other.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from kimi_audio_ft.cost.counted import Count, Growing
from kimi_audio_ft.runtime.devices import main_memory


@dataclass(frozen=True)
class Machine:
    """A device and its host.

    flops: operations per second of large products in the base's format. bandwidth: bytes per second of its memory.
    kernel_seconds: of the host, to start an operation. memory: bytes. waits: the host waits for every operation (CPU).
    """

    name: str
    flops: float
    bandwidth: float
    kernel_seconds: float
    memory: float
    waits: bool = False

    def seconds(self, count: Count) -> float:
        """Time of counted operations."""
        host, *device = self._times(count)
        return host + max(device) if self.waits else max(host, *device)

    def lines(self, growing: Growing) -> tuple[tuple[float, float], ...]:
        """Straight lines, the highest of which is a GPU's time: seconds of none, and of each one more."""
        return tuple(zip(self._times(growing.fixed), self._times(growing.each), strict=True))

    def _times(self, count: Count) -> tuple[float, float, float]:
        """Of the host, and of the device, which is held up by the arithmetic of products or by their bytes."""
        other = count.other_bytes / self.bandwidth
        products = count.flops / self.flops + other, count.product_bytes / self.bandwidth + other
        return count.kernels * self.kernel_seconds, *products


# Parts of a card's published peaks that are taken to be reached: of products, and of the memory's bytes.
PRODUCTS_REACHED, BYTES_REACHED = 0.5, 0.8


def _card(name: str, tera_flops: float, tera_bytes: float, giga_bytes: int) -> Machine:
    """A GPU by its published figures, in bfloat16 without sparsity; PyTorch's host takes 8 microseconds a kernel."""
    flops, bandwidth = PRODUCTS_REACHED * tera_flops * 1e12, BYTES_REACHED * tera_bytes * 1e12
    return Machine(name, flops, bandwidth, 8e-6, giga_bytes * 1e9)


# By the names of config.launcher.MACHINES. The laptop has two cores with 32-bit products.
MACHINES = {
    "h100": _card("H100 80 GB", 989, 3.35, 80),
    "a100": _card("A100 80 GB", 312, 2.04, 80),
    "4090": _card("RTX 4090", 165, 1.01, 24),
    "laptop": Machine("laptop, 2 cores", 60e9, 15e9, 8e-6, 16e9, waits=True),
}


def card(name: str) -> Machine:
    """The card that a driver calls so; another one counts as an H100, on which a pass is worth most positions."""
    gpus = ((key, machine) for key, machine in MACHINES.items() if not machine.waits)
    known = (machine for key, machine in gpus if re.search(rf"\b{key}(?!\d)", name, re.IGNORECASE))
    return next(known, MACHINES["h100"])


def this_machine(bfloat16: bool, gpu: bool) -> Machine:
    """This one, measured in about a second: a large product, a large copy and many small operations."""
    device = torch.device("cuda" if gpu else "cpu")
    dtype = torch.bfloat16 if bfloat16 else torch.float32
    size = 4096 if gpu else 768
    left = torch.ones(size, size, dtype=dtype, device=device)
    values, few = (torch.ones(count, device=device) for count in (1 << (28 if gpu else 23), 1))

    def finish() -> None:
        if gpu:
            torch.cuda.synchronize()

    flops = 2 * size**3 / _fastest(lambda: left @ left, finish)
    bandwidth = 8 * values.numel() / _fastest(values.clone, finish)
    kernel = _fastest(lambda: [few + few for _ in range(1000)], finish) / 1000
    if gpu:
        name, memory = torch.cuda.get_device_name(), float(torch.cuda.get_device_properties(0).total_memory)
    else:
        name, memory = f"this machine's CPU, {torch.get_num_threads()} threads", main_memory()
    return Machine(name, flops, bandwidth, kernel, memory, waits=not gpu)


def _fastest(compute: Callable[[], object], finish: Callable[[], None], turns: int = 5) -> float:
    """Seconds of the fastest of a few turns."""
    seconds = []
    for _ in range(turns):
        finish()
        begun = time.perf_counter()
        compute()
        finish()
        seconds.append(time.perf_counter() - begun)
    return min(seconds)
