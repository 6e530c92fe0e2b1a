"""A sweep told in few plain lines, for logs and pipes."""

from __future__ import annotations

from collections.abc import Callable

from kimi_audio_ft.engine.state import JobState, SweepState, UnitState
from kimi_audio_ft.engine.table import progress, speed, title
from kimi_audio_ft.engine.work import Event
from kimi_audio_ft.text import common_name, number_ranges

# A new line of progress after so much of the work, or so many seconds.
_PART, _SECONDS = 0.1, 30.0


class PlainLines:
    """Says what is new; ``say`` prints one line. only_failures: the rest is seen elsewhere."""

    def __init__(self, state: SweepState, say: Callable[[str], None], only_failures: bool = False) -> None:
        self.state, self._say, self._only_failures = state, say, only_failures
        self._told: dict[str, tuple[int, float]] = {}

    def start(self) -> None:
        """What the sweep consists of."""
        reused = self.state.counts().get("reused", 0)
        self._tell(f"{title(self.state)}{f', {reused} of the trials are in the store' if reused else ''}")

    def event(self, event: Event) -> None:
        """Tell it, unless it is one of many such."""
        name, unit = event["event"], self.state.units.get(event["unit"] or "")
        if name == "split":
            self._say(f"{len(event.get('units', []))} adapters are tried again in smaller packs: {event.get('reason')}")
        elif unit is None:
            return
        elif name == "failed":
            self._say(f"{self._of(unit)}: FAILED: {event['message'].strip() or unit.reason}")
        elif name == "fitting":
            self._tell(f"{self._of(unit)}: fitting{f' in pack {unit.pack}' if event.get('pack', 1) > 1 else ''}")
        elif name == "step":
            self._step(unit)
        elif name == "decoding" and unit.to_decode and self._due(f"decode {unit.key}", unit.decoded / unit.to_decode):
            self._tell(f"{self._of(unit)}: decoded {unit.decoded} of {unit.to_decode}")
        elif name == "waiting":
            self._tell(f"{self._of(unit)}: another process is making this adapter; waiting for it")
        elif name == "ready":
            self._tell(f"{self._of(unit)}: {'fitted and decoded' if unit.fitted else 'decoded'}")
        elif name in ("paused", "interrupted"):
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
