"""Making one task in a process of its own, which a cluster may stop: events go to a file, signals are answered."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import traceback
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from kimi_audio_ft.errors import UserError
from kimi_audio_ft.files import raise_if_full, write_json
from kimi_audio_ft.paths import CHECKOUT, project_root, store_root
from kimi_audio_ft.runtime.devices import num_ranks
from kimi_audio_ft.sweep.plan import Event, Task, read_task

# --- Where a task is to be made: what a process on another machine must see as the sweep does.

# Variables that decide what a task reads and computes. Nothing secret is among them: they are written to a file.
_TRAVELLING = (
    *("KIMI_AUDIO_FT_ROOT", "KIMI_AUDIO_FT_TRACEBACK", "PYTHONPATH", "OMP_NUM_THREADS"),
    *("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE"),
)


@dataclass(frozen=True)
class Place:
    """Of a task. folder: where relative paths begin. witness: a file in the store that every node must see."""

    folder: str
    environment: dict[str, str]
    store: str
    witness: str

    @classmethod
    def beside(cls, task_file: Path) -> Path:
        """Where the place of a task file is written."""
        return task_file.with_name(f"{task_file.name}.place.json")

    def write(self, task_file: Path) -> None:
        """Keep it beside a task file."""
        write_json(self.beside(task_file), asdict(self))

    @classmethod
    def read(cls, task_file: Path) -> Place | None:
        """The place of a task file, if it has one."""
        path = cls.beside(task_file)
        return cls(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None

    def enter(self) -> None:
        """Make this process see what the sweep sees.

        Raises:
            UserError: this machine does not see the sweep's folder or store.
        """
        os.environ.update(self.environment)
        os.environ["KIMI_AUDIO_FT_STORE"] = self.store
        host, shared = socket.gethostname(), "It must lie on a file system that all nodes share"
        if not Path(self.folder).is_dir():
            raise UserError(f"{self.folder}: the sweep's working folder is not there on {host}. {shared}")
        os.chdir(self.folder)
        if not (Path(self.store) / self.witness).is_file():
            raise UserError(f"KIMI_AUDIO_FT_STORE: {host} does not see the sweep's store {self.store}. {shared}")


def this_place() -> Place:
    """This process's place.

    Raises:
        UserError: the store cannot be written.
    """
    environment = {name: os.environ[name] for name in _TRAVELLING if name in os.environ}
    environment["PYTHONPATH"] = python_path()
    return Place(str(Path.cwd()), environment, str(store_root()), _witness(store_root()))


def _witness(store: Path) -> str:
    """Name of a file that this store has and no other: a node's folder of the same path could be its own disk's."""
    try:
        store.mkdir(parents=True, exist_ok=True)
        for path in sorted(store.glob(".store-*")):
            return path.name
        path = store / f".store-{uuid.uuid4().hex}"
        path.touch()
    except OSError as error:
        raise_if_full(error, store)
        raise UserError(f"KIMI_AUDIO_FT_STORE: {store} cannot be written ({error.strerror})") from None
    return path.name


def python_path() -> str:
    """PYTHONPATH for another process that is to import this very package."""
    entries = [str(Path(entry).absolute()) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    if project_root() == CHECKOUT and str(CHECKOUT) not in entries:
        entries.append(str(CHECKOUT))
    return os.pathsep.join(entries)


log = logging.getLogger("kimi_audio_ft.sweep")

INTERRUPTED = os.EX_TEMPFAIL
"""Exit code of a task that was asked to stop: it has saved, and goes on when it is started again."""
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)
Supervise = Callable[[Task, Callable[[Event], None], Callable[[], bool]], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m kimi_audio_ft.sweep TASK.json``; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m kimi_audio_ft.sweep",
        description="Make one task of a sweep: train its adapters together and decode them, into the store. Events are "
        "appended to TASK.json.events.jsonl. SIGTERM, SIGUSR1, SIGUSR2 and Ctrl-C finish the step and save; exit code "
        f"0: all is made or has failed for good; {INTERRUPTED}: stopped, start it again to go on.",
    )
    parser.add_argument("task", type=Path, metavar="TASK.json", help="a task that an executor has written")
    parser.add_argument("--with-parent", action="store_true", help="stop and save when the starting process is gone")
    options = parser.parse_args(arguments)
    if not options.task.is_file():
        parser.error(f"{options.task}: no such file")
    logging.basicConfig(format="[%(asctime)s] %(message)s", level=logging.INFO)
    with heard(options.with_parent) as asked:
        return run_task(options.task.absolute(), asked)


@dataclass
class Asked:
    """Whether this process was asked to stop. parent: the process without which it is to stop; 0: none."""

    parent: int
    stop: bool = False

    def __call__(self) -> bool:
        return self.stop or (self.parent != 0 and os.getppid() != self.parent)


@contextmanager
def heard(with_parent: bool) -> Iterator[Asked]:
    """Signals that ask this process to stop."""
    asked = Asked(os.getppid() if with_parent else 0)

    def hear(number: int, frame: Any) -> None:
        asked.stop = True

    before = {number: signal.signal(number, hear) for number in SIGNALS}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_task(task_file: Path, should_stop: Callable[[], bool], supervise: Supervise | None = None) -> int:
    """Make a task; every unit has its last word in the events file when this returns.

    Args:
        supervise: makes the units; ``engine.supervise`` unless given.
    """
    write = EventWriter(events_path(task_file))
    task = None
    progress = Progress()

    def on_event(event: Event) -> None:
        progress.take(event)
        write(event)

    try:
        place = Place.read(task_file)
        if place is not None:
            place.enter()
        task = read_task(task_file)
        (supervise or _supervise)(task, on_event, should_stop)
    except Exception as error:
        keys = [unit.key for unit in task.units] if task is not None else unit_keys(task_file)
        _fail([key for key in keys if key not in progress.ended], error, on_event)
        log.exception("the task ended early", exc_info=None if isinstance(error, UserError) else error)
        return 1
    left = {unit.key for unit in task.units} - progress.ended
    return INTERRUPTED if left else 0


def _supervise(task: Task, on_event: Callable[[Event], None], should_stop: Callable[[], bool]) -> None:
    from kimi_audio_ft.sweep.supervisor import supervise

    # How many processes train together is for the machine to say that has the GPUs.
    task = replace(task, ranks=num_ranks(task.units[0].config.trainer))
    supervise(task, on_event, should_stop)


def unit_keys(task_file: Path) -> list[str]:
    """Keys of a task's units, also when its configs cannot be read."""
    return [unit["key"] for unit in json.loads(task_file.read_text(encoding="utf-8"))["units"]]


def _fail(keys: Sequence[str], error: Exception, on_event: Callable[[Event], None]) -> None:
    user = isinstance(error, UserError)
    words = "" if user else "".join(traceback.format_exception(error))
    facts = {"error_type": type(error).__name__, "message": str(error), "user": user, "traceback": words}
    for key in keys:
        on_event({"event": "failed", "unit": key, **facts})


# --- The process of a task inside a cluster's job: started, asked to stop, waited for.

# Seconds between two looks at the process: signals and interrupts of the job are answered in between.
_PATIENCE = 0.2


def log_path(task_file: Path) -> Path:
    """Where all that a task prints goes."""
    return task_file.with_suffix(".log")


class TaskProcess:
    """``python -m kimi_audio_ft.sweep``, in a session of its own.

    A cluster's signals reach every process of the job's group; this way the job alone hears them and asks this process
    to stop in good order. It ends by itself, saving, when the job's process is gone.
    """

    def __init__(self, task_file: Path) -> None:
        place = Place.read(task_file)
        assert place is not None, "the executor writes a place beside every task"
        # The task starts its own ranks; Lightning would take Slurm's single process for the whole of them.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
        environment = {**inherited, **place.environment, "KIMI_AUDIO_FT_STORE": place.store}
        command = [sys.executable, "-m", "kimi_audio_ft.sweep", str(task_file), "--with-parent"]
        with log_path(task_file).open("ab") as log:
            self.process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def stop(self) -> None:
        """Ask it to save and end."""
        if self.process.poll() is None:
            self.process.terminate()

    def wait(self) -> int:
        """Its exit code, once it has ended."""
        while True:
            try:
                return self.process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                continue


# --- Events of a task that runs elsewhere, through a file of one JSON object a line.

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
