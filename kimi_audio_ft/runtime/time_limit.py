"""The hours that a sweep may take (``hydra.launcher.hours``)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

# Part of the hours, and most seconds of it, that are left to save in, and to write the report.
_RESERVE, _MOST_RESERVE = 0.1, 120.0


class TimeUp(KeyboardInterrupt):
    """A sweep has used its hours; as after Ctrl-C, what is finished is kept, and the same command resumes it."""


@dataclass(frozen=True)
class TimeLimit:
    """Hours from its making: near their end the sweep saves and stops; at the end, what still runs is ended."""

    hours: float
    began: float
    clock: Callable[[], float] = time.monotonic

    @classmethod
    def from_now(cls, hours: float | None, clock: Callable[[], float] = time.monotonic) -> TimeLimit | None:
        return None if hours is None else cls(hours, clock(), clock)

    def is_near(self) -> bool:
        """Whether it is time to save and stop."""
        seconds = 3600 * self.hours
        return self.clock() - self.began >= seconds - min(_RESERVE * seconds, _MOST_RESERVE)

    def is_over(self) -> bool:
        return self.clock() - self.began >= 3600 * self.hours

    def reached(self) -> TimeUp:
        """The exception that ends the sweep."""
        return TimeUp(f"hydra.launcher.hours={self.hours:g}: the time is up")
