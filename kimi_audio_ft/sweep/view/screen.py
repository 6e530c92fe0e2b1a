"""Output of a running sweep: a live table on a terminal, a few plain lines anywhere else."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, ClassVar

from rich.console import Console
from rich.live import Live
from rich.text import Text

from kimi_audio_ft.sweep.events import Event
from kimi_audio_ft.sweep.view.state import JobLine, SweepState
from kimi_audio_ft.sweep.view.table import STOPPING, PlainLines, render


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
        """Take in an event."""
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


# Keeps lines that others write apart from a table that is drawn again and again.

_STANDARD = (1, 2)
# Seconds to wait at the end for what has been written; a child that lives on keeps the pipe open.
_PATIENCE = 0.5


class CapturedTerminal:
    """While it is open, every line that this process and its children write to the terminal goes to ``on_line``.

    ``terminal`` is a descriptor of the terminal itself. A standard output or error that goes elsewhere is left alone.
    A child that outlives this goes on being read.
    """

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        self.terminal = os.dup(sys.stdout.fileno())
        self._kept: dict[int, int] = {}
        self._reader: threading.Thread | None = None

    def __enter__(self) -> CapturedTerminal:
        _flush()
        reading, writing = os.pipe()
        self._kept = {number: os.dup(number) for number in _STANDARD if os.isatty(number)}
        for number in self._kept:
            os.dup2(writing, number)
        os.close(writing)
        self._reader = threading.Thread(target=self._read, args=(reading,), daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *error: Any) -> None:
        _flush()
        for number, kept in self._kept.items():
            os.dup2(kept, number)
            os.close(kept)
        assert self._reader is not None
        self._reader.join(_PATIENCE)

    def _read(self, descriptor: int) -> None:
        with os.fdopen(descriptor, encoding="utf-8", errors="replace", newline="\n") as lines:
            for line in lines:
                # A progress bar draws over itself; its last state is what counts.
                self._on_line(line.rstrip("\r\n").rsplit("\r", 1)[-1])


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
