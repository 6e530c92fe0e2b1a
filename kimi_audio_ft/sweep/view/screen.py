"""Output of a running sweep: a live table on a terminal, a few plain lines anywhere else."""

from __future__ import annotations

import logging
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from functools import partial
from typing import IO, Any, ClassVar, get_args

from rich import box
from rich.console import Console, Group
from rich.file_proxy import FileProxy
from rich.live import Live
from rich.table import Table
from rich.text import Text

from kimi_audio_ft.scoring.ranking import RATE_HEADINGS
from kimi_audio_ft.sweep.events import Event, Failed, Fitting, Split, Step
from kimi_audio_ft.sweep.view.state import JobLine, Phase, Row, SweepState
from kimi_audio_ft.text import duration, first_line, printable, printable_lines

_STOPPING = "finishing the step, saving; press Ctrl-C again to end at once"
# Seconds after which a plain line tells again of what has made no great progress.
_PATIENCE = 30.0
# Lines around the table's rows: title and speed (two each on a narrow screen), headings and their rule, the cursor's.
_AROUND = 7
_STYLES = {"failed": "red", "stopped": "yellow", "done": "green", "waiting": "dim", "stored": "dim"}


class SweepView:
    """Shows the trials of one launch while it is open. One thread tells it things; another draws the table.

    console: where to draw; None is standard output. rank_by: the error rate that is shown.
    """

    open_views: ClassVar[int] = 0

    def __init__(self, jobs: Sequence[JobLine], console: Console | None = None, rank_by: str = "cer") -> None:
        self.state = SweepState(jobs, rank_by=rank_by)
        self._console = console or Console(force_terminal=sys.stdout.isatty(), markup=False, soft_wrap=True)
        self._is_live = self._console.is_terminal and not self._console.is_dumb_terminal
        self._open = ExitStack()
        self._told: dict[str, tuple[object, float]] = {}

    def __enter__(self) -> SweepView:
        SweepView.open_views += 1
        if self._is_live:
            self._open.enter_context(redirect_stdout(self._above_table(sys.stdout)))
            self._open.enter_context(redirect_stderr(self._above_table(sys.stderr)))
            draw = partial(table, self.state, self._console)
            self._open.enter_context(
                Live(get_renderable=draw, console=self._console, transient=True, redirect_stderr=False)
            )
        self._tell("Sweep", "begins", counts(self.state))
        return self

    def __exit__(self, *error: Any) -> None:
        SweepView.open_views -= 1
        self._open.close()

    def event(self, event: Event) -> None:
        """Take in an event."""
        row = self.state.apply(event)
        if isinstance(event, Split):
            self.say(f"{len(event.units)} adapters are tried again in smaller packs: {event.reason}")
        elif row is not None and isinstance(event, Failed):
            self.say(f"{row.label}: FAILED: {event.failure.message.strip() or row.reason}")
        elif row is not None and not self._is_live:
            self._tell_progress(row, event)

    def job_done(self, number: int, rate: float | None, error: str | None) -> None:
        """A trial has run: its error rate (a fraction), or why it failed. Failures are told, the others counted."""
        state, known = self.state, number in self.state.failed
        state.finish_job(number, rate, error)
        if error is not None and not known:
            self.say(f"trial {number} ({state.jobs[number].name}): FAILED: {first_line(error, 'no message')}")
        self._tell("Sweep", 10 * len(state.scored | state.failed) // len(state.jobs), counts(state))

    def say(self, message: str) -> None:
        """A message: above the table, or lines of its own. Where nobody can read it any more, it asks to stop."""
        try:
            for line in message.splitlines():
                self._console.print(Text(printable(line)), soft_wrap=True)
        except (OSError, SystemExit):  # the latter is rich's way of leaving a closed pipe
            signal.raise_signal(signal.SIGHUP)

    def stopping(self) -> None:
        """Ctrl-C was pressed once."""
        self.state.stopping = True
        self._tell("Ctrl-C", "pressed", _STOPPING)

    def _tell_progress(self, row: Row, event: Event) -> None:
        about, more = row.label, ""
        if isinstance(event, Step):  # one line for the whole pack
            about = f"pack {row.pack}"
            pack = [other for other in self.state.having(row.phase) if other.pack == row.pack]
            losses = [other.loss for other in pack if other.loss is not None]
            ends = dict.fromkeys(f"{end(losses):.3f}" for end in (min, max))
            more = f", loss {' to '.join(ends)}, {speed(self.state)}"
        elif isinstance(event, Fitting):
            more = f" in pack {row.pack}"
        tenths = 10 * row.done.get(row.phase, 0) // (row.total.get(row.phase) or 1)
        self._tell(about, (row.phase, tenths), f"{row.status}{more}")

    def _tell(self, about: str, progress: object, line: str) -> None:
        """Say what a table shows, where there is none: at every new progress, and without it after a while."""
        now = self.state.clock()
        told, then = self._told.get(about, (None, now))
        if not self._is_live and (progress != told or now - then >= _PATIENCE):
            self._told[about] = progress, now
            self.say(f"{about}: {line}")

    def _above_table(self, stream: IO[str]) -> Any:
        """A terminal's stream whose lines, those of logging handlers too, are printed above the table."""
        if not stream.isatty():
            return stream
        above: Any = _AboveTable(self._console, stream)
        _move_handlers(stream, above)
        self._open.callback(_move_handlers, above, stream)
        self._open.callback(above.flush)
        return above


class _AboveTable(FileProxy):
    def write(self, text: str) -> int:
        super().write(printable_lines(text))
        return len(text)


def _move_handlers(source: IO[str], target: IO[str]) -> None:
    """Let the logging handlers that write to one stream write to another."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream is source:
            handler.setStream(target)


def quiet_job_console() -> None:
    """Let a job's console handlers pass only what an open view does not show: warnings, and errors with a traceback.

    A job may have new handlers, so this is called when it starts. Its log file has every line.
    """
    for handler in logging.getLogger().handlers if SweepView.open_views else []:
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
            handler.addFilter(_is_not_shown)


def _is_not_shown(record: logging.LogRecord) -> bool:
    return record.levelno == logging.WARNING or bool(record.exc_info)


def table(state: SweepState, console: Console) -> Group:
    """The table of a sweep that fits the console."""
    urgent = sorted(state.rows.values(), key=lambda row: get_args(Phase).index(row.phase))
    shown = set(urgent[: max(3, console.height - _AROUND)])
    lines = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for heading in ("#", "trials", "pack", "state", "loss", RATE_HEADINGS[state.rank_by]):
        lines.add_column(heading, justify="left" if heading in ("trials", "state") else "right")
    for row in [row for row in state.rows.values() if row in shown]:
        loss = "" if row.loss is None else f"{row.loss:.3f}"
        rate = f"{100 * min(row.rates):.2f}" if row.rates else ""
        cells = (row.numbers, row.name, str(row.pack or ""), row.status, loss, rate)
        texts = [Text(cell, no_wrap=True, overflow="ellipsis") for cell in cells]
        lines.add_row(*texts, style=_STYLES.get(row.phase, "cyan"))
    # Wrapped even while ``say`` prints without wrapping: the table is erased by its number of lines.
    title = Text(f"Sweep: {counts(state)}", no_wrap=False, overflow="fold")
    last = Text(_STOPPING if state.stopping else speed(state), no_wrap=False, overflow="fold")
    return Group(title, lines, last)


def counts(state: SweepState) -> str:
    """How many trials have ended, and how far the adapters are."""
    phases = Counter(row.phase for row in state.rows.values())
    adapters = ", ".join(f"{phases[phase]} {phase}" for phase in get_args(Phase) if phases[phase])
    return f"{len(state.scored)} of {len(state.jobs)} trials scored, {len(state.failed)} failed; adapters: {adapters}"


def speed(state: SweepState) -> str:
    """Tokens per second of all that trains, time so far, and time left where it is known."""
    tokens = sum({row.pack: row.tokens_per_second for row in state.having("fitting")}.values())
    said = [f"{tokens:,.0f} tokens/s"] if tokens else []
    said += [f"{duration(round(state.clock() - state.started, 1))} so far"]
    kinds = ("fitting", "decoding")
    left = [f"{duration(seconds)} of {kind}" for kind in kinds if (seconds := state.seconds_left(kind))]
    return ", ".join([*said, *([f"about {' and '.join(left)} left"] if left else [])])
