"""Events of a task: what happens to its units, sent through queues, and through files of one JSON object a line."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from kimi_audio_ft.files import raise_if_full
from kimi_audio_ft.outcomes import Failure


@dataclass(frozen=True)
class Event:
    """An event of any kind; its kind's name in JSON is the class's in lower case."""

    ends: ClassVar[bool] = False
    """Whether the task has done with the unit."""

    def to_json(self) -> dict[str, Any]:
        """``{"event": NAME, "unit": KEY, ...}``."""
        return {"event": type(self).__name__.lower(), **asdict(self)}


@dataclass(frozen=True)
class UnitEvent(Event):
    """Of one unit, by its key: the training signature of its adapter, or ``BASE``."""

    unit: str


@dataclass(frozen=True)
class Fitting(UnitEvent):
    """Its training begins or resumes, in a pack of so many adapters.

    task: packs of several tasks train at the same time.
    """

    pack: int = 1
    task: int | str | None = None


@dataclass(frozen=True)
class Step(UnitEvent):
    """It has made an optimizer step. tokens_per_second: of the whole pack, without padding."""

    step: int
    steps: int
    loss: float
    tokens_per_second: float


@dataclass(frozen=True)
class Point(UnitEvent):
    """A new point of its curves (``CurveRecorder``); a resumed training gives the earlier ones again."""

    row: dict[str, Any]


@dataclass(frozen=True)
class Decoding(UnitEvent):
    """Utterances that are decoded, of all; each counts once for every repeat of every decoding setting."""

    done: int
    total: int


@dataclass(frozen=True)
class Waiting(UnitEvent):
    """Another process is making it."""


@dataclass(frozen=True)
class Ready(UnitEvent):
    """The store has all that its jobs ask for. fitted: by this task; else its adapter was there before."""

    ends = True
    fitted: bool = False


@dataclass(frozen=True)
class Paused(UnitEvent):
    """Its training has reached the task's ``until``. val_rate: None unless the task's metric is "cer"."""

    ends = True
    step: int
    val_loss: float
    val_rate: float | None = None


@dataclass(frozen=True)
class Interrupted(UnitEvent):
    """The task was asked to stop. step: of the checkpoint; None when the unit was not training."""

    ends = True
    step: int | None = None


@dataclass(frozen=True)
class Failed(UnitEvent):
    """It cannot be made; in JSON the failure's fields lie beside the others."""

    ends = True
    failure: Failure

    def to_json(self) -> dict[str, Any]:
        """``{"event": "failed", "unit": KEY, "error_type": ..., ...}``."""
        values = super().to_json()
        return values | values.pop("failure")


@dataclass(frozen=True)
class Split(Event):
    """Units (keys) are tried again in smaller packs, in new processes. memory: they did not fit into it.

    A task's process says this before it leaves; without units when what broke has failed by itself.
    """

    units: list[str]
    reason: str
    memory: bool = False
    unit: None = None


_KINDS = {kind.__name__.lower(): kind for kind in (*UnitEvent.__subclasses__(), Split)}


def event_from_json(values: dict[str, Any]) -> Event:
    """Read what ``to_json`` gave; TypeError or KeyError if the values are not an event's."""
    facts = dict(values)
    kind = _KINDS[facts.pop("event")]
    if kind is Failed:
        return Failed(facts.pop("unit"), Failure(**facts))
    return kind(**facts)


# Events of a task that runs elsewhere, through a file.


def events_path(task_file: Path) -> Path:
    """The file with the events of a task file's task."""
    return task_file.with_name(f"{task_file.name}.events.jsonl")


class EventWriter:
    """Appends events to a file.

    Every event is one write to a file that is opened for it: closing is what makes a shared file system (NFS) show it
    to other machines.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # A process that was killed in the middle of a line must not swallow the next one's first.
        self._begin = b"" if self._ends_well() else b"\n"

    def __call__(self, event: Event) -> None:
        line = self._begin + json.dumps(event.to_json(), ensure_ascii=False).encode() + b"\n"
        self._begin = b""
        try:
            target = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                os.write(target, line)
            finally:
                os.close(target)
        except OSError as error:
            raise_if_full(error, self.path)
            raise

    def _ends_well(self) -> bool:
        if not self.path.is_file() or self.path.stat().st_size == 0:
            return True
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"


@dataclass
class EventReader:
    """Gives each complete line of a growing file once; a line that is no event is left out."""

    path: Path
    offset: int = field(default=0, init=False)

    def read(self) -> list[Event]:
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                new = file.read()
        except FileNotFoundError:
            return []
        complete = new[: new.rfind(b"\n") + 1]
        self.offset += len(complete)
        return [event for line in complete.splitlines() if (event := _parsed(line)) is not None]


def _parsed(line: bytes) -> Event | None:
    try:
        return event_from_json(json.loads(line))
    except (ValueError, TypeError, KeyError):  # the half line of a killed process
        return None


@dataclass
class Progress:
    """How far the units of a task are, by key.

    ended: those that need nothing more. interrupted: the last event of those that stopped on the way. begun: those that
    the task works on. split: what its process said when it left because something broke.
    """

    ended: set[str] = field(default_factory=set)
    interrupted: dict[str, Interrupted] = field(default_factory=dict)
    begun: set[str] = field(default_factory=set)
    split: Split | None = None

    def take(self, event: Event) -> bool:
        """Take in an event; returns whether to pass it on now: an interrupted task may soon be resumed."""
        if isinstance(event, Split):
            self.split = event
            return len(event.units) > 1
        assert isinstance(event, UnitEvent)
        self.interrupted.pop(event.unit, None)
        if isinstance(event, Interrupted):
            self.interrupted[event.unit] = event
            return False
        if isinstance(event, Fitting | Decoding):
            self.begun.add(event.unit)
        if event.ends:
            self.ended.add(event.unit)
            self.begun.discard(event.unit)
        return True
