"""Time on the wall and of the processor, side by side."""

from __future__ import annotations

import resource
import time
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Seconds:
    """wall: as a person waits. cpu: of all processes, which other jobs on the machine change little."""

    wall: float = 0.0
    cpu: float = 0.0

    def __add__(self, other: Seconds) -> Seconds:
        return Seconds(self.wall + other.wall, self.cpu + other.cpu)

    def __sub__(self, other: Seconds) -> Seconds:
        return Seconds(self.wall - other.wall, self.cpu - other.cpu)

    def __mul__(self, factor: float) -> Seconds:
        return Seconds(self.wall * factor, self.cpu * factor)

    def of(self, clock: str) -> float:
        """``wall`` or ``cpu``."""
        return float(asdict(self)[clock])


def now() -> Seconds:
    """This process's clocks, and the processor's time of its children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return Seconds(time.time(), sum(usage.ru_utime + usage.ru_stime for usage in usages))
