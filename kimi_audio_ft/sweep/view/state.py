"""State of a running sweep, from the events of its units; the live table and the plain lines show it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Literal

from kimi_audio_ft.sweep import events
from kimi_audio_ft.sweep.events import Event
from kimi_audio_ft.text import first_line

# Fewer than this say nothing about the speed.
_ENOUGH_STEPS, _ENOUGH_UTTERANCES = 3, 3


class Rates:
    """Adapter steps and decoded utterances per second; time in which both are made is shared between the two."""

    def __init__(self, now: float) -> None:
        self._last = now
        self.fitting_seconds = 0.0  # in which anything was being trained
        self._fit_time = self._decode_time = 0.0
        self._steps = self._utterances = 0

    def tick(self, now: float, fitting: int, stepping: int, decoding: int) -> None:
        """The time since the last tick went to so many units: in training, of these past their first step, decoding."""
        passed, self._last = now - self._last, now
        if fitting:
            self.fitting_seconds += passed
        if stepping or decoding:
            self._fit_time += passed * stepping / (stepping + decoding)
            self._decode_time += passed * decoding / (stepping + decoding)

    def add_steps(self, count: int) -> None:
        """One adapter made so many optimizer steps; the adapters of a pack count each."""
        self._steps += count

    def add_utterances(self, count: int) -> None:
        """So many transcripts were made."""
        self._utterances += count

    def left(self, steps: float, utterances: float) -> float | None:
        """Seconds that so much work takes; None while the speed of a kind that remains is not known."""
        if (steps and self._steps < _ENOUGH_STEPS) or (utterances and self._utterances < _ENOUGH_UTTERANCES):
            return None
        fit = steps * self._fit_time / self._steps if steps else 0.0
        return fit + (utterances * self._decode_time / self._utterances if utterances else 0.0)


Phase = Literal[
    "waiting",
    "reused",
    "fitting",
    "fitted",
    "decoding",
    "elsewhere",
    "paused",
    "ready",
    "interrupted",
    "done",
    "failed",
]
ACTIVE = ("fitting", "fitted", "decoding", "elsewhere")
_SETTLED = ("ready", "failed", "interrupted", "paused")


@dataclass(frozen=True)
class JobLine:
    """A trial as the view is told of it.

    name: its values that differ from its siblings', with spaces between them (see ``short_names``).
    unit: key of the unit that makes what it needs; several trials share one.
    """

    number: int
    name: str
    unit: str
    state: Literal["waiting", "reused"] = "waiting"


@dataclass
class UnitState:
    """One unit. pack: number of the pack it trains in, from 1; decoded, to_decode: utterances."""

    key: str
    phase: Phase = "waiting"
    step: int = 0
    steps: int | None = None
    loss: float | None = None
    tokens_per_second: float | None = None
    pack: int | None = None
    decoded: int = 0
    to_decode: int | None = None
    fitted: bool = False
    reason: str = ""


@dataclass
class JobState:
    """A trial: its unit's phase, until it has run itself."""

    line: JobLine
    unit: UnitState
    phase: Phase | None = None
    cer: float | None = None
    reused: bool = False
    reason: str = ""

    @property
    def shown(self) -> Phase:
        """done or failed once the trial has run, else how far its unit is."""
        return self.phase or self.unit.phase


@dataclass
class _Pack:
    number: int
    size: int
    members: list[str] = field(default_factory=list)


class SweepState:
    """Units and trials of a running sweep; ``clock`` gives seconds."""

    def __init__(self, jobs: Sequence[JobLine], clock: Callable[[], float] = monotonic) -> None:
        self.units = {line.unit: UnitState(line.unit) for line in jobs}
        for line in jobs:
            if line.state == "reused":
                self.units[line.unit].phase = "reused"
        self.jobs = {line.number: JobState(line, self.units[line.unit]) for line in jobs}
        self._of_unit: dict[str, list[JobState]] = {}
        for job in self.jobs.values():
            self._of_unit.setdefault(job.line.unit, []).append(job)
        self.packs: dict[int | str | None, _Pack] = {}  # the last one of each task
        self.clock, self.started = clock, clock()
        self.rates = Rates(self.started)
        self.stopping = False

    def jobs_of(self, key: str) -> list[JobState]:
        """The trials that a unit serves."""
        return self._of_unit[key]

    def having(self, *phases: str) -> list[UnitState]:
        """The units in one of these phases."""
        return [unit for unit in self.units.values() if unit.phase in phases]

    def counts(self, jobs: Iterable[JobState] | None = None) -> dict[str, int]:
        """Number of trials by what is shown of them."""
        found: dict[str, int] = {}
        for job in self.jobs.values() if jobs is None else jobs:
            found[job.shown] = found.get(job.shown, 0) + 1
        return found

    def apply(self, event: Event) -> None:
        """Take in an event."""
        now = self.clock()
        fitting = self.having("fitting")
        stepping = sum(unit.loss is not None for unit in fitting)  # loading the base says nothing about the speed
        self.rates.tick(now, len(fitting), stepping, len(self.having("decoding")))
        if isinstance(event, events.Split):
            self._split(event.units)
        elif isinstance(event, events.UnitEvent) and event.unit in self.units:  # no trial's own is the base
            self._change(self.units[event.unit], event)

    def finish_job(self, number: int, cer: float | None, error: str | None, reused: bool) -> None:
        """A trial has run, to its score or to an error."""
        job = self.jobs[number]
        job.phase = "done" if error is None else "failed"
        job.cer, job.reused = cer, reused
        job.reason = "" if job.unit.phase == "failed" else first_line(error or "")

    def seconds_left(self) -> float | None:
        """Estimate for all remaining work; None while the speed of one kind of it is unknown."""
        steps, utterances = self._steps_left(), self._utterances_left()
        return None if steps is None or utterances is None else self.rates.left(steps, utterances)

    def seconds_left_to_fit(self) -> float | None:
        """The same for the trainings alone; None also when none is left."""
        steps = self._steps_left()
        return self.rates.left(steps, 0) if steps else None

    def _open(self) -> list[UnitState]:
        return [unit for unit in self.units.values() if unit.phase not in (*_SETTLED, "reused")]

    def _steps_left(self) -> float | None:
        """Adapter steps; a training whose length is not known yet counts as an average one."""
        lengths = [unit.steps for unit in self.units.values() if unit.steps is not None]
        fitting = [unit for unit in self._open() if unit.phase in ("waiting", "fitting")]
        if fitting and not lengths:
            return None
        return sum((unit.steps or sum(lengths) / len(lengths)) - unit.step for unit in fitting)

    def _utterances_left(self) -> float | None:
        """Transcripts; a unit whose number is not known yet counts the average number for each of its trials."""
        totals = {key: unit.to_decode for key, unit in self.units.items() if unit.to_decode is not None}
        if self._open() and not totals:
            return None
        each = sum(totals.values()) / max(1, sum(len(self.jobs_of(key)) for key in totals))
        return sum((unit.to_decode or each * len(self.jobs_of(unit.key))) - unit.decoded for unit in self._open())

    def _split(self, keys: Iterable[str]) -> None:
        for key in keys:
            if key in self.units and self.units[key].phase not in _SETTLED:
                self.units[key].phase, self.units[key].pack = "waiting", None

    def _change(self, unit: UnitState, event: events.UnitEvent) -> None:
        match event:
            case events.Fitting():
                unit.phase, unit.pack = "fitting", self._join(unit.key, event.task, event.pack)
            case events.Step():
                self._step(unit, event)
            case events.Decoding():
                self._decoding(unit, event)
            case events.Waiting():
                unit.phase = "elsewhere"
            case events.Ready():
                unit.phase, unit.fitted = "ready", event.fitted
            case events.Paused():
                unit.phase, unit.step = "paused", event.step
            case events.Interrupted():
                unit.phase, unit.step = "interrupted", event.step or unit.step
            case events.Failed(failure=failure):
                unit.phase, unit.reason = "failed", first_line(failure.message, failure.error_type)

    def _join(self, key: str, task: int | str | None, size: int) -> int:
        """Number of the pack that a unit begins to train in: a pack's members say so one after another."""
        last = self.packs.get(task)
        if last is None or len(last.members) >= last.size or last.size != size or key in last.members:
            number = 1 + max((pack.number for pack in self.packs.values()), default=0)
            last = self.packs[task] = _Pack(number, size)
        last.members.append(key)
        return last.number

    def _step(self, unit: UnitState, event: events.Step) -> None:
        unit.phase = "fitting" if event.step < event.steps else "fitted"
        if unit.loss is not None:  # the first one comes after loading, and after the steps of an earlier process
            self.rates.add_steps(event.step - unit.step)
        unit.step, unit.steps, unit.loss = event.step, event.steps, event.loss
        unit.tokens_per_second = event.tokens_per_second

    def _decoding(self, unit: UnitState, event: events.Decoding) -> None:
        if unit.phase == "decoding":
            self.rates.add_utterances(event.done - unit.decoded)
        unit.phase, unit.decoded, unit.to_decode = "decoding", event.done, event.total
