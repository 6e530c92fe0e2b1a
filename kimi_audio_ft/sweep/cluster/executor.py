"""Tasks as jobs of a cluster: submitted, followed through their events files, and resubmitted when a job is lost."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol

from kimi_audio_ft.outcomes import Failure
from kimi_audio_ft.paths import store_root
from kimi_audio_ft.sweep import events
from kimi_audio_ft.sweep.cluster.task import TaskEnvironment, log_path, sweep_environment
from kimi_audio_ft.sweep.events import Event
from kimi_audio_ft.sweep.plan import Task, Unit, even_chunks, write_task

log = logging.getLogger(__name__)

# Seconds after which jobs that have not ended are asked again to stop: one that is just starting misses the signal.
_ASK_AGAIN = 15.0


@dataclass(frozen=True)
class JobEnd:
    """How a job ended.

    fate: "died": because of its program or its memory; "lost": it was stopped, or its node failed, and it can be
    resumed elsewhere; "cancelled": by a person. reason: a message for people.
    """

    fate: Literal["died", "lost", "cancelled"]
    reason: str


class NotNow(Exception):
    """A cluster that has worked cannot take a job now; it has logged why. Try again later."""


class Cluster(Protocol):
    """A queue of jobs."""

    max_restarts: int
    """How often a job that was lost is submitted again."""

    def submit(self, task_file: Path, name: str) -> str:
        """Queue ``python -m kimi_audio_ft.sweep task_file``; returns the job's id. Raises UserError, NotNow."""

    def ended(self, jobs: Sequence[str]) -> Mapping[str, JobEnd]:
        """Those of the jobs that have ended and will not be requeued; those not known yet may be left out."""

    def stop(self, jobs: Sequence[str]) -> None:
        """Have jobs save and end; those that have not begun need not begin."""

    def close(self, jobs: Sequence[str]) -> None:
        """Disconnect; jobs that still run are ended."""


@dataclass
class _Followed:
    """A task whose job is queued or runs. open: its units that have not ended."""

    task: Task
    name: str
    file: Path
    restarts: int
    job: str
    reader: events.EventReader
    progress: events.Progress = field(default_factory=events.Progress)

    @property
    def open(self) -> list[Unit]:
        return [unit for unit in self.task.units if unit.key not in self.progress.ended]


@dataclass
class ClusterExecutor:
    """Runs tasks as jobs.

    folder: of the sweep; every run has a folder of its own in ``packs/``.
    parallel: jobs at a time; None: all.
    poll_seconds: between two looks at the events of all tasks.
    retry_seconds: after which a cluster that did not answer is given its job again.
    """

    cluster: Cluster
    folder: Path
    parallel: int | None = None
    poll_seconds: float = 0.5
    retry_seconds: float = 15.0

    def run(self, tasks: Sequence[Task], on_event: Callable[[Event], None], should_stop: Callable[[], bool]) -> None:
        """Run all tasks to their ends; ``on_event`` is called in this thread.

        Raises:
            UserError: the cluster cannot be used, or refuses a job.
        """
        run = _Run(self, _new_folder(self.folder / "packs"), sweep_environment(), on_event, should_stop)
        for task in tasks:
            run.waiting.append((task, f"task-{task.number}", 0))
        try:
            while run.turn():
                time.sleep(self.poll_seconds)
        finally:
            self.cluster.close([followed.job for followed in run.running])


@dataclass
class _Run:
    executor: ClusterExecutor
    folder: Path
    environment: TaskEnvironment
    on_event: Callable[[Event], None]
    should_stop: Callable[[], bool]
    waiting: deque[tuple[Task, str, int]] = field(default_factory=deque)
    running: list[_Followed] = field(default_factory=list)
    asked: float | None = None
    not_before: float = 0.0  # when a job may be submitted, after a cluster has said NotNow

    def turn(self) -> bool:
        """Submit tasks, pass on events; returns whether any task is left."""
        stopping = self.should_stop()
        if stopping:
            self._stop()
        self._submit_waiting()
        # Asked before the files are read: what a job wrote before its end is then in its file.
        ends = self.executor.cluster.ended([followed.job for followed in self.running])
        for followed in list(self.running):
            self._pass_on(followed)
            if not followed.open or followed.job in ends:
                self.running.remove(followed)
                self._after(followed, ends.get(followed.job), stopping)
        return bool(self.waiting or self.running)

    def _submit_waiting(self) -> None:
        parallel = self.executor.parallel
        while self.waiting and (parallel is None or len(self.running) < parallel):
            if time.monotonic() < self.not_before:
                return
            try:
                self.running.append(self._submit(*self.waiting[0]))
            except NotNow:
                self.not_before = time.monotonic() + self.executor.retry_seconds
            else:
                self.waiting.popleft()

    def _submit(self, task: Task, name: str, restarts: int) -> _Followed:
        file = self.folder / f"{name}.json"
        write_task(replace(task, log=str(log_path(file))), file)
        self.environment.write(file)
        # A restarted task's file has the events of its earlier job.
        reader = events.EventReader(events.events_path(file))
        reader.read()
        return _Followed(task, name, file, restarts, self.executor.cluster.submit(file, name), reader)

    def _pass_on(self, followed: _Followed) -> None:
        for event in followed.reader.read():
            if followed.progress.take(event):
                if isinstance(event, events.Ready | events.Paused):
                    _refresh_store()
                # A task that is tried again in halves has one number, but as many names as jobs.
                self.on_event(replace(event, task=followed.name) if isinstance(event, events.Fitting) else event)

    def _after(self, followed: _Followed, end: JobEnd | None, stopping: bool) -> None:
        """Interrupt, resubmit, split or fail the units that a job has left."""
        units, name = followed.open, followed.name
        if not units:
            return
        assert end is not None
        paused = followed.progress.interrupted
        if stopping:
            for unit in units:
                self.on_event(paused.get(unit.key) or events.Interrupted(unit.key))
        elif end.fate != "cancelled" and (end.fate == "lost" or len(paused) == len(units)):
            if followed.restarts == self.executor.cluster.max_restarts:
                self._fail(followed, end, f", and it has been started {followed.restarts + 1} times")
                return
            log.info("%s: %s; resubmitted", name, end.reason)
            self.waiting.append((followed.task.with_units(units), name, followed.restarts + 1))
        elif end.fate == "died" and len(units) > 1:
            self.on_event(events.Split([unit.key for unit in units], end.reason))
            for number, half in enumerate(even_chunks(units, 2), 1):
                self.waiting.append((followed.task.with_units(half), f"{name}.{number}", followed.restarts))
        else:
            self._fail(followed, end)

    def _fail(self, followed: _Followed, end: JobEnd, more: str = "") -> None:
        message = f"{end.reason}{more}. "
        if end.fate != "cancelled":
            message += f"{self._where_to_look(log_path(followed.file))}. "
        message += "Re-run the command to resume"
        for unit in followed.open:
            self.on_event(events.Failed(unit.key, Failure("JobEnded", message, user=True)))

    def _where_to_look(self, printed: Path) -> str:
        if printed.is_file() and printed.stat().st_size:
            return f"Its output is in {printed}"
        return (
            f"It printed nothing into {printed}: does its node see {self.folder}? That folder and the store "
            f"({store_root()}) must lie on a file system that all nodes share"
        )

    def _stop(self) -> None:
        for task, _, _ in self.waiting:
            for unit in task.units:
                self.on_event(events.Interrupted(unit.key))
        self.waiting.clear()
        if self.running and (self.asked is None or time.monotonic() - self.asked > _ASK_AGAIN):
            self.asked = time.monotonic()
            self.executor.cluster.stop([followed.job for followed in self.running])


def _new_folder(parent: Path) -> Path:
    """A folder that no earlier run has used: a sweep may be resumed, and halving makes tasks several times."""
    number = 1
    while True:
        folder = parent.absolute() / f"{number:03d}"
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            number += 1


def _refresh_store() -> None:
    """Have a network file system show what another machine has just put into the store.

    NFS caches for a while that a name was absent; changing a folder, if only to the mode it has, makes it ask again
    (submitit does the same before it looks for a result).
    """
    for kind in ("adapter", "transcript"):
        folder = store_root() / kind
        try:
            folder.chmod(folder.stat().st_mode)
        except OSError:  # somebody else's folder, or none yet
            continue
