"""Events of a task that runs elsewhere, through a file of one JSON object a line."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from kimi_audio_ft.engine.work import Event
from kimi_audio_ft.files import raise_if_full

ENDS = ("ready", "paused", "failed")
"""Events after which a unit needs nothing more of its task; ``interrupted`` is one only for those that give up."""


def events_path(task_file: Path) -> Path:
    """Where the events of a task file go."""
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
        """Append one event."""
        line = self._begin + json.dumps(event, ensure_ascii=False).encode() + b"\n"
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
    """Gives each complete line of a growing file once; a line that is no JSON object is left out."""

    path: Path
    offset: int = field(default=0, init=False)

    def read(self) -> list[Event]:
        """What is new."""
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
        event = json.loads(line)
    except ValueError:  # the half line of a killed process
        return None
    return event if isinstance(event, dict) and "event" in event else None


@dataclass
class Progress:
    """What the events of a task say of its units, by key.

    ended: units that need nothing more. interrupted: the last word of those that stopped on the way.
    """

    ended: set[str] = field(default_factory=set)
    interrupted: dict[str, Event] = field(default_factory=dict)

    def take(self, event: Event) -> bool:
        """Take in an event; returns whether others should hear of it now: a stop may be for a short while."""
        key, name = event.get("unit"), event["event"]
        if key is None:
            return True
        if name == "interrupted":
            self.interrupted[key] = event
            return False
        self.interrupted.pop(key, None)
        if name in ENDS:
            self.ended.add(key)
        return True
