"""A sweep's state as text: a live table that fits the screen, or a few plain lines for logs and pipes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from rich import box
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from kimi_audio_ft.sweep import events
from kimi_audio_ft.sweep.events import Event
from kimi_audio_ft.sweep.view.state import ACTIVE, JobState, SweepState, UnitState
from kimi_audio_ft.text import common_name, duration, number_ranges

STOPPING = "finishing the step, saving; press Ctrl-C again to end at once"
_COLUMNS: tuple[tuple[str, Literal["left", "right"]], ...] = (
    *(("#", "right"), ("trial", "left"), ("pack", "right"), ("state", "left"), ("loss", "right"), ("CER %", "right")),
)
_NAME, _STATE = 1, 3
# Lines around the trials: title, headings and their rule, counts of those left out, the last line, the cursor's.
_AROUND = 7
_STYLES = {
    "fitting": "cyan",
    "fitted": "cyan",
    "decoding": "blue",
    "elsewhere": "magenta",
    "done": "green",
    "reused": "dim",
    "waiting": "dim",
    "failed": "red",
    "paused": "yellow",
    "interrupted": "yellow",
}
# What is shown first when not all trials fit on the screen.
_URGENCY = (
    *("fitting", "decoding", "elsewhere", "failed", "fitted", "interrupted", "paused"),
    *("ready", "waiting", "done", "reused"),
)
_WORDS = {"elsewhere": "in another process", "interrupted": "stopped", "paused": "stopped at rung"}


@dataclass(frozen=True)
class _Row:
    """One line: a trial, or all trials of an adapter that are equally far."""

    jobs: list[JobState]

    @property
    def phase(self) -> str:
        return self.jobs[0].shown


def render(state: SweepState, width: int, height: int) -> RenderableType:
    """The table of a sweep for a screen of ``width`` columns and ``height`` lines."""
    rows, left_out = chosen_rows(state, max(3, height - _AROUND))
    cells = [_cells(row) for row in rows]
    widths = _widths(cells, width)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for (heading, justify), column_width in zip(_COLUMNS, widths, strict=True):
        table.add_column(heading, justify=justify, no_wrap=True, overflow="ellipsis", width=column_width)
    for row, texts in zip(rows, cells, strict=True):
        table.add_row(*map(Text, texts), style=_STYLES.get(row.phase))
    lines: list[RenderableType] = [Text(title(state), style="bold"), table]
    if left_out:
        said = ", ".join(f"{count} {_WORDS.get(phase, phase)}" for phase, count in state.counts(left_out).items())
        lines.append(Text(f"… {said}", style="dim"))
    lines.append(Text(STOPPING, style="bold yellow") if state.stopping else Text(speed(state)))
    return Group(*lines)


def _widths(cells: Sequence[Sequence[str]], width: int) -> list[int]:
    """Columns of text for every column; a trial's name and its state share what the others leave."""
    longest = [max(map(cell_len, (heading, *texts))) for (heading, _), *texts in zip(_COLUMNS, *cells, strict=True)]
    room = max(2, width - 2 * len(_COLUMNS) - sum(longest) + longest[_NAME] + longest[_STATE])
    longest[_NAME] = min(longest[_NAME], max(room - longest[_STATE], room * 3 // 5))
    longest[_STATE] = min(longest[_STATE], room - longest[_NAME])
    return longest


def title(state: SweepState) -> str:
    """How many trials there are and how far they are."""
    counts = state.counts()
    ended = [f"{counts[phase]} {phase}" for phase in ("done", "failed") if phase in counts]
    trials = f"{len(state.jobs)} trial{'' if len(state.jobs) == 1 else 's'}"
    adapters = f"{len(state.units)} adapter{'' if len(state.units) == 1 else 's'}"
    return ", ".join([f"Sweep: {trials}, {adapters}", *ended])


def speed(state: SweepState) -> str:
    """Tokens per second of all that trains, time so far, and time left where it is known."""
    per_pack = {unit.pack: unit.tokens_per_second for unit in state.having("fitting")}
    tokens = sum(value for value in per_pack.values() if value)
    said = [f"{tokens:,.0f} tokens/s"] if tokens else []
    said.append(f"{duration(round(state.clock() - state.started, 1))} so far")
    left, fitting = state.seconds_left(), state.seconds_left_to_fit()
    if left:
        said.append(f"about {duration(left)} left")
    elif left is None and fitting:
        said.append(f"about {duration(fitting)} of training left")
    return ", ".join(said)


def progress(unit: UnitState) -> str:
    """A unit's phase, with numbers."""
    if unit.phase == "fitting":
        return f"fitting {unit.step}/{unit.steps}" if unit.steps else "fitting"
    if unit.phase == "decoding":
        return f"decoding {unit.decoded}/{unit.to_decode}" if unit.to_decode else "decoding"
    if unit.phase in ("paused", "interrupted"):
        return f"stopped at step {unit.step}" if unit.step else "stopped"
    return _WORDS.get(unit.phase, unit.phase)


def chosen_rows(state: SweepState, room: int) -> tuple[list[_Row], list[JobState]]:
    """The rows for so many lines, in the trials' order, and the trials that have none.

    With room for all, every trial has a row. Else the trials of an adapter share one while they are equally far, and
    those at work and those that failed come first.
    """
    jobs = list(state.jobs.values())
    if len(jobs) <= room:
        return [_Row([job]) for job in jobs], []
    shared: dict[tuple[str, str, str], list[JobState]] = {}
    for job in jobs:
        own = str(job.line.number) if job.shown == "done" or job.reason else ""
        shared.setdefault((job.line.unit, job.shown, own), []).append(job)
    rows = [_Row(equally_far) for equally_far in shared.values()]
    by_urgency = sorted(rows, key=lambda row: (_URGENCY.index(row.phase), _latest_first(row)))
    kept = {id(row) for row in by_urgency[:room]}
    return [row for row in rows if id(row) in kept], [j for row in rows if id(row) not in kept for j in row.jobs]


def _latest_first(row: _Row) -> int:
    """Of trials that are done the latest are shown; of all others the first."""
    number = row.jobs[0].line.number
    return -number if row.phase in ("done", "reused") else number


def _cells(row: _Row) -> Sequence[str]:
    job, unit = row.jobs[0], row.jobs[0].unit
    active = row.phase in (*ACTIVE, "interrupted", "paused")
    name = common_name([job.line.name for job in row.jobs])
    said = progress(unit) if active else _WORDS.get(row.phase, row.phase)
    if row.phase == "done" and job.reused:
        said = "done, reused"
    if row.phase == "failed":
        said = f"failed: {job.reason or unit.reason}"
    return [
        number_ranges([job.line.number for job in row.jobs]),
        name if len(row.jobs) == 1 else f"{name} ×{len(row.jobs)}",
        str(unit.pack) if unit.pack and active else "",
        said,
        f"{unit.loss:.3f}" if unit.loss is not None and row.phase == "fitting" else "",
        f"{100 * job.cer:.2f}" if job.cer is not None else "",
    ]


# A new line of progress after so much of the work, or so many seconds.
_PART, _SECONDS = 0.1, 30.0


class PlainLines:
    """Prints news by ``say``, one line each. only_failures: the rest is seen elsewhere."""

    def __init__(self, state: SweepState, say: Callable[[str], None], only_failures: bool = False) -> None:
        self.state, self._say, self._only_failures = state, say, only_failures
        self._told: dict[str, tuple[int, float]] = {}

    def start(self) -> None:
        """Say how many trials and adapters there are."""
        reused = self.state.counts().get("reused", 0)
        self._tell(f"{title(self.state)}{f', {reused} of the trials are in the store' if reused else ''}")

    def event(self, event: Event) -> None:
        """Say it, unless it is one of many such."""
        if isinstance(event, events.Split):
            self._say(f"{len(event.units)} adapters are tried again in smaller packs: {event.reason}")
        elif isinstance(event, events.UnitEvent) and event.unit in self.state.units:
            self._tell_of(self.state.units[event.unit], event)

    def _tell_of(self, unit: UnitState, event: events.UnitEvent) -> None:
        match event:
            case events.Failed(failure=failure):
                self._say(f"{self._of(unit)}: FAILED: {failure.message.strip() or unit.reason}")
            case events.Fitting(pack=size):
                self._tell(f"{self._of(unit)}: fitting{f' in pack {unit.pack}' if size > 1 else ''}")
            case events.Step():
                self._step(unit)
            case events.Decoding(done=done, total=total):
                if total and self._due(f"decode {unit.key}", done / total):
                    self._tell(f"{self._of(unit)}: decoded {done} of {total}")
            case events.Waiting():
                self._tell(f"{self._of(unit)}: another process is making this adapter; waiting for it")
            case events.Ready(fitted=fitted):
                self._tell(f"{self._of(unit)}: {'fitted and decoded' if fitted else 'decoded'}")
            case events.Paused() | events.Interrupted():
                self._tell(f"{self._of(unit)}: {progress(unit)}")

    def job_done(self, job: JobState) -> None:
        """Trials come fast at the end: failures are told, the others counted."""
        if job.reason:
            self._say(f"trial {job.line.number} ({job.line.name}): FAILED: {job.reason}")
        jobs = self.state.jobs.values()
        done, failed = (sum(one.phase == phase for one in jobs) for phase in ("done", "failed"))
        if done + failed == len(jobs) or self._due("trials", (done + failed) / len(jobs)):
            total = f"{len(jobs)} trial{' is' if len(jobs) == 1 else 's are'}"
            self._tell(f"{done} of {total} scored{f', {failed} failed' if failed else ''}")

    def _tell(self, line: str) -> None:
        if not self._only_failures:
            self._say(line)

    def _step(self, unit: UnitState) -> None:
        """One line for a whole pack."""
        pack = [
            unit,
            *(other for other in self.state.having("fitting") if other.pack == unit.pack and other is not unit),
        ]
        if not unit.steps or not self._due(f"fit {unit.pack}", unit.step / unit.steps):
            return
        losses = sorted(other.loss for other in pack if other.loss is not None)
        shown = f"{losses[0]:.3f}" if len(losses) == 1 else f"{losses[0]:.3f} to {losses[-1]:.3f}"
        named = f"pack {unit.pack}" if len(pack) > 1 else self._of(unit)
        self._tell(f"{named}: step {unit.step} of {unit.steps}, loss {shown}, {speed(self.state)}")

    def _due(self, about: str, part: float) -> bool:
        """Whether enough has happened since the last line about it; the first and the last come by other events."""
        now, tenths = self.state.clock(), int(part / _PART + 1e-6)
        tenths_then, time_then = self._told.setdefault(about, (0, now))
        if tenths == tenths_then and now - time_then < _SECONDS:
            return False
        self._told[about] = (tenths, now)
        return True

    def _of(self, unit: UnitState) -> str:
        lines = [job.line for job in self.state.jobs_of(unit.key)]
        numbers = number_ranges([line.number for line in lines])
        return f"trial{'s' if len(lines) > 1 else ''} {numbers} ({common_name([line.name for line in lines])})"
