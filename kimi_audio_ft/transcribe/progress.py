"""Progress in hours of audio: a bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from kimi_audio_ft.text import duration

# Seconds between two lines.
_EVERY = 30.0


class HoursBar:
    """As a context manager it shows how much of ``seconds`` of audio is done; nothing unless ``visible``.

    doing: what is done with it.
    """

    def __init__(self, seconds: float, visible: bool, doing: str = "decoding") -> None:
        self._total, self._done, self._visible, self._doing = seconds, 0.0, visible, doing
        self._started = self._told = time.monotonic()
        columns = (TextColumn(doing), BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
        self._bar = Progress(*columns, transient=True, disable=not (visible and sys.stdout.isatty()))
        self._task = self._bar.add_task(self._said(), total=seconds)

    def __enter__(self) -> Self:
        if not self._bar.disable:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._bar.disable:  # or it would print an empty line
            self._bar.stop()

    def add(self, seconds: float) -> None:
        """So many seconds of audio more are done."""
        self._done += seconds
        self._bar.update(self._task, completed=self._done, description=self._said())
        now = time.monotonic()
        if self._visible and self._bar.disable and now - self._told >= _EVERY:
            self._told = now
            left = (now - self._started) * (self._total - self._done) / self._done
            print(f"{self._doing}: {self._said()}, about {duration(left)} left", flush=True)

    def _said(self) -> str:
        rate = self._done / max(time.monotonic() - self._started, 1e-9)
        return f"{self._done / 3600:.3g} of {self._total / 3600:.3g} hours of audio, {speed(rate)}"


def speed(rate: float) -> str:
    """Seconds of audio per second in words."""
    return f"{rate / 3600:.3g} hours per second ({rate:.3g} times real time)"
