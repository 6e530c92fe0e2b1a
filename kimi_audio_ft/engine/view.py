"""What a person sees while a sweep runs: a live table on a terminal, a few plain lines anywhere else."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, ClassVar

from rich.console import Console
from rich.live import Live
from rich.text import Text

from kimi_audio_ft.engine.captured import CapturedTerminal
from kimi_audio_ft.engine.plain import PlainLines
from kimi_audio_ft.engine.state import JobLine, SweepState
from kimi_audio_ft.engine.table import STOPPING, render
from kimi_audio_ft.engine.work import Event

__all__ = ["JobLine", "SweepView", "quiet_job_console"]


class SweepView:
    """Shows the trials of one launch while it is open; may be told things by several threads.

    console: where to draw; None is standard output, with everything else that is written there kept above the table.
    """

    open_views: ClassVar[int] = 0

    def __init__(self, jobs: Sequence[JobLine], console: Console | None = None) -> None:
        self.state = SweepState(jobs)
        self._lock = threading.RLock()
        self._own_terminal = console is None and sys.stdout.isatty() and os.environ.get("TERM") not in (None, "dumb")
        self._console = console or Console(force_terminal=False)
        self._open = ExitStack()
        self._live = self._own_terminal or (self._console.is_terminal and not self._console.is_dumb_terminal)
        self._lines = PlainLines(self.state, self.say, only_failures=self._live)

    def __enter__(self) -> SweepView:
        if self._own_terminal:
            captured = CapturedTerminal(self._say_text)
            self._console = Console(file=os.fdopen(captured.terminal, "w", encoding="utf-8"), force_terminal=True)
            # The pipe is left first: what was still in it is printed above the table.
            self._open.enter_context(self._table())
            self._open.enter_context(captured)
        elif self._live:
            self._open.enter_context(self._table())
        self._lines.start()
        SweepView.open_views += 1
        return self

    def __exit__(self, *error: Any) -> None:
        SweepView.open_views -= 1
        self._open.close()

    @property
    def fitting_seconds(self) -> float:
        """Time so far in which adapters were being trained."""
        return self.state.rates.fitting_seconds

    def event(self, event: Event) -> None:
        """Take in what happened to a unit."""
        with self._lock:
            self.state.apply(event)
            self._lines.event(event)

    def job_done(self, number: int, cer: float | None, error: str | None, reused: bool) -> None:
        """A trial has run: its CER (a fraction), or why it failed; ``reused``: it had nothing to wait for."""
        with self._lock:
            self.state.finish_job(number, cer, error, reused)
            self._lines.job_done(self.state.jobs[number])

    def say(self, line: str) -> None:
        """A message: above the table, or a line of its own."""
        self._console.print(Text(line), soft_wrap=True)

    def stopping(self) -> None:
        """Ctrl-C was pressed once."""
        with self._lock:
            self.state.stopping = True
        if not self._live:
            self.say(STOPPING)

    def _say_text(self, line: str) -> None:
        """A line that something wrote to the terminal, colours included."""
        self._console.print(Text.from_ansi(line), soft_wrap=True)

    def _table(self) -> Live:
        return Live(
            get_renderable=self._render,
            console=self._console,
            refresh_per_second=4,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def _render(self) -> Any:
        with self._lock:
            return render(self.state, *self._console.size)


def quiet_job_console() -> None:
    """Let a job's console handlers pass only what an open view does not show: warnings, and errors with a traceback.

    Hydra makes new handlers for every job, so this is called when a job starts. Its log file has every line.
    """
    if not SweepView.open_views:
        return
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
            handler.addFilter(lambda record: record.levelno == logging.WARNING or bool(record.exc_info))
