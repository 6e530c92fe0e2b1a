"""State of a running sweep: a row for each adapter, which the events of its unit change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic
from typing import Literal, NamedTuple

from kimi_audio_ft.sweep import events
from kimi_audio_ft.sweep.plan import grouped
from kimi_audio_ft.text import common_name, first_line, number_ranges, printable

# Most urgent first: when not all rows fit on the screen, those of the first phases are shown.
Phase = Literal["fitting", "decoding", "failed", "in another process", "fitted", "stopped", "done", "waiting", "stored"]
# Phases of the adapters that have such work ahead, by the phase in which it is done.
_AHEAD = {
    "fitting": ("waiting", "fitting"),
    "decoding": ("waiting", "fitting", "fitted", "in another process", "decoding"),
}


class JobLine(NamedTuple):
    """A trial as the view is told of it.

    name: see ``short_names``. unit: key of what is made for it; several trials share one. reused: the store has that.
    """

    number: int
    name: str
    unit: str
    reused: bool = False


class Row:
    """One adapter with its trials.

    done, total: optimizer steps ("fitting") and utterances ("decoding"); a total is 0 while it is not known.
    pack: number of the pack that it trains in, from 1.
    """

    def __init__(self, jobs: Sequence[JobLine]) -> None:
        self.jobs = jobs
        self.numbers = number_ranges([job.number for job in jobs])
        self.name = printable(common_name([job.name for job in jobs]))
        self.label = f"trial{'s' if len(jobs) > 1 else ''} {self.numbers} ({self.name})"
        self.phase: Phase = "stored" if jobs[0].reused else "waiting"
        self.done = dict.fromkeys(_AHEAD, 0)
        self.total = dict.fromkeys(_AHEAD, 0)
        self.pack: int | None = None
        self.loss: float | None = None
        self.tokens_per_second = 0.0
        self.rates: list[float] = []
        self.reason = ""

    @property
    def status(self) -> str:
        """The phase, with numbers or the reason."""
        match self.phase:
            case "fitting" | "decoding" if self.total[self.phase]:
                return f"{self.phase} {self.done[self.phase]}/{self.total[self.phase]}"
            case "stopped" if self.done["fitting"]:
                return f"stopped at step {self.done['fitting']}"
            case "failed":
                return f"failed: {self.reason}"
        return self.phase


class SweepState:
    """Adapters and trials of a running sweep; ``clock`` gives seconds.

    rows: by the key of the unit. scored, failed: numbers of trials.
    fitting_seconds: time in which any adapter was being trained, loading the base included. rank_by: the error rate of
    the trials, by ``config.train.RATES``.
    """

    def __init__(self, jobs: Sequence[JobLine], clock: Callable[[], float] = monotonic, rank_by: str = "cer") -> None:
        self.rank_by = rank_by
        self.jobs = {job.number: job for job in jobs}
        self.rows = {group[0].unit: Row(group) for group in grouped(jobs, lambda job: job.unit)}
        self.scored: set[int] = set()
        self.failed: set[int] = set()
        self.stopping = False
        self.fitting_seconds = 0.0
        self.clock = clock
        self.started = self._last = clock()
        self._done = dict.fromkeys(_AHEAD, 0)  # amount of work whose seconds are in ``_seconds``
        self._seconds = dict.fromkeys(_AHEAD, 0.0)
        self._packs: dict[int | str | None, int] = {}  # the last one of each task

    def having(self, phase: Phase) -> list[Row]:
        return [row for row in self.rows.values() if row.phase == phase]

    def apply(self, event: events.Event) -> Row | None:
        """Take in an event; returns the row that it changes: None for several, and for the base, which has none."""
        now = self.clock()
        passed, self._last = now - self._last, now
        if self.having("fitting"):
            self.fitting_seconds += passed
        if isinstance(event, events.Split):
            for tried_again in (self.rows[key] for key in event.units if key in self.rows):
                tried_again.phase, tried_again.pack = "waiting", None
        row = self.rows.get(event.unit) if isinstance(event, events.UnitEvent) else None
        if row is not None:
            self._change(row, event, passed)
        return row

    def finish_job(self, number: int, rate: float | None, error: str | None) -> None:
        """A trial has run, to its score or to an error."""
        row = self.rows[self.jobs[number].unit]
        if error is not None:
            self._fail(row, [number], first_line(error, "no message"))
        else:
            self.scored.add(number)
            row.rates += [] if rate is None else [rate]

    def seconds_left(self, kind: str) -> float | None:
        """Estimate for all fitting or decoding that is left; None for none, and while its speed or length is unknown.

        An adapter whose number of steps or utterances is not known yet counts as an average one.
        """
        ahead = [row for row in self.rows.values() if row.phase in _AHEAD[kind]]
        totals = [row.total[kind] for row in self.rows.values() if row.total[kind]]
        if not ahead or not totals or not self._done[kind]:
            return None
        average = sum(totals) / len(totals)
        amount = sum((row.total[kind] or average) - row.done[kind] for row in ahead)
        return amount * self._seconds[kind] / self._done[kind]

    def _change(self, row: Row, event: events.Event, passed: float) -> None:
        match event:
            case events.Fitting():
                row.pack = self._join(event.task)
                row.phase, row.loss = "fitting", None
            case events.Step(step=step, steps=steps):
                if row.loss is not None:  # the first one comes after loading, and after the steps of an earlier process
                    self._measure("fitting", step - row.done["fitting"], passed)
                row.done["fitting"], row.total["fitting"] = step, steps
                row.loss, row.tokens_per_second = event.loss, event.tokens_per_second
                row.phase = "fitting" if step < steps else "fitted"
            case events.Decoding(done=done, total=total):
                self._measure("decoding", done - row.done["decoding"] if row.phase == "decoding" else 0, passed)
                row.done["decoding"], row.total["decoding"] = done, total
                row.phase = "decoding"
            case events.Waiting():
                row.phase = "in another process"
            case events.Ready():
                row.phase = "done"
            case events.Paused() | events.Interrupted():
                row.done["fitting"] = event.step or row.done["fitting"]
                row.phase = "stopped"
            case events.Failed(failure=failure):
                self._fail(row, [job.number for job in row.jobs], first_line(failure.message, failure.error_type))

    def _fail(self, row: Row, numbers: Sequence[int], reason: str) -> None:
        self.failed.update(numbers)
        if row.phase != "failed":
            row.phase, row.reason = "failed", printable(reason)

    def _measure(self, kind: str, amount: int, seconds: float) -> None:
        self._done[kind] += amount
        self._seconds[kind] += seconds

    def _join(self, task: int | str | None) -> int:
        """Number of the pack that an adapter begins to train in: a pack's members say so before its first step."""
        number = self._packs.get(task, 0)
        if not any(row.pack == number and row.loss is None for row in self.having("fitting")):
            number = self._packs[task] = 1 + max(self._packs.values(), default=0)
        return number
