"""``python -m kimi_audio_ft.sweep TASK.json``: one task of a sweep in a process of its own, on any machine."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from kimi_audio_ft.data.workers import SIDE_BY_SIDE
from kimi_audio_ft.errors import UserError
from kimi_audio_ft.files import raise_if_full, write_json
from kimi_audio_ft.outcomes import Failure
from kimi_audio_ft.paths import CHECKOUT, project_root, share_with_group, store_root
from kimi_audio_ft.runtime.signals import StopRequest
from kimi_audio_ft.runtime.workers import print_into
from kimi_audio_ft.sweep.events import Event, EventWriter, Failed, Progress, events_path
from kimi_audio_ft.sweep.plan import Task, read_task

log = logging.getLogger("kimi_audio_ft.sweep")

INTERRUPTED = os.EX_TEMPFAIL
"""Exit code of a task that was asked to stop: it has saved, and resumes when it is started again."""
BROKEN = os.EX_SOFTWARE
"""Exit code of a task that leaves because a training broke: its devices and memory may be in any state."""
Make = Callable[[Task, Callable[[Event], None], Callable[[], bool]], None]

# Variables that decide what a task reads and computes. Nothing secret is among them: they are written to a file.
_TRAVELLING = (
    *("KIMI_AUDIO_FT_TRACEBACK", "PYTHONPATH", "OMP_NUM_THREADS", "MKL_CBWR"),
    *("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE"),
)
# Seconds between two looks at the process: signals and interrupts of the job are answered in between.
_PATIENCE = 0.2


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m kimi_audio_ft.sweep TASK.json``; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m kimi_audio_ft.sweep",
        description="Make one task of a sweep: train its adapters together and decode them, into the store. Events are "
        "appended to TASK.json.events.jsonl. SIGTERM, SIGUSR1, SIGUSR2 and Ctrl-C finish the step and save; a second "
        "Ctrl-C ends at once. Exit code 0: all is made or has failed for good; "
        f"{INTERRUPTED}: stopped; start it again to resume.",
    )
    parser.add_argument("task", type=Path, metavar="TASK.json", help="a task that an executor has written")
    parser.add_argument("--with-parent", action="store_true", help="stop and save when the starting process is gone")
    options = parser.parse_args(arguments)
    if not options.task.is_file():
        parser.error(f"{options.task}: no such file")
    parent = os.getppid()
    with StopRequest(also=[signal.SIGUSR2], is_gone=lambda: options.with_parent and os.getppid() != parent) as stop:
        return run_task(options.task.absolute(), stop)


def run_task(task_file: Path, should_stop: Callable[[], bool], make: Make | None = None) -> int:
    """Make a task and return its exit code; the events file says how every unit ended.

    Args:
        make: makes the units; ``worker.make_units`` unless given.
    """
    write = EventWriter(events_path(task_file))
    task, progress = None, Progress()

    def on_event(event: Event) -> None:
        progress.take(event)
        write(event)

    try:
        environment = TaskEnvironment.read(task_file)
        if environment is not None:
            environment.enter()
        share_with_group()  # Ray's workers, and jobs of Slurm, have the mask of whoever has started them
        task = read_task(task_file)
        os.environ[SIDE_BY_SIDE] = str(task.side_by_side)
        print_into(task.log, logging.INFO)
        (make or _make_units)(task, on_event, should_stop)
    except Exception as error:
        keys = [unit.key for unit in task.units] if task is not None else _unit_keys(task_file)
        for key in keys:
            if key not in progress.ended:
                on_event(Failed(key, Failure.of(error)))
        log.exception("the task ended early", exc_info=None if isinstance(error, UserError) else error)
        return 1
    if progress.split is not None:
        return BROKEN
    return INTERRUPTED if {unit.key for unit in task.units} - progress.ended else 0


def _make_units(task: Task, on_event: Callable[[Event], None], should_stop: Callable[[], bool]) -> None:
    from kimi_audio_ft.sweep.worker import make_units

    make_units(task, on_event, should_stop)


def _unit_keys(task_file: Path) -> list[str]:
    """Keys of a task's units, also when its configs cannot be read."""
    return [unit["key"] for unit in json.loads(task_file.read_text(encoding="utf-8"))["units"]]


@dataclass(frozen=True)
class TaskEnvironment:
    """What a task's process on another machine must share with the sweep.

    folder: where relative paths begin. witness: a file in the store that every node must see.
    """

    folder: str
    environment: dict[str, str]
    store: str
    witness: str

    @classmethod
    def path(cls, task_file: Path) -> Path:
        """The file beside a task file that holds its environment."""
        return task_file.with_name(f"{task_file.name}.environment.json")

    def write(self, task_file: Path) -> None:
        """Keep it beside a task file."""
        write_json(self.path(task_file), asdict(self))

    @classmethod
    def read(cls, task_file: Path) -> TaskEnvironment | None:
        """The environment of a task file, if it has one."""
        path = cls.path(task_file)
        return cls(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None

    def enter(self) -> None:
        """Let this process work as the sweep's does.

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


def sweep_environment(more: Sequence[str] = ()) -> TaskEnvironment:
    """The environment of tasks that this process sends elsewhere. more: names of variables that a sweep has of its own.

    Raises:
        UserError: the store cannot be written.
    """
    environment = {name: os.environ[name] for name in (*_TRAVELLING, *more) if name in os.environ}
    environment["PYTHONPATH"] = python_path()
    return TaskEnvironment(str(Path.cwd()), environment, str(store_root()), _witness(store_root()))


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


def log_path(task_file: Path) -> Path:
    """The file that takes all output of a task."""
    return task_file.with_suffix(".log")


class TaskProcess:
    """``python -m kimi_audio_ft.sweep``, in a session of its own.

    A cluster's signals reach every process of the job's group; this way the job alone receives them and asks this
    process to stop in good order. It saves and ends by itself when the job's process is gone.
    """

    def __init__(self, task_file: Path) -> None:
        own = TaskEnvironment.read(task_file)
        assert own is not None, "the executor writes one beside every task"
        # The task starts its own ranks; Lightning would take Slurm's single process for the whole of them.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
        environment = {**inherited, **own.environment, "KIMI_AUDIO_FT_STORE": own.store}
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
