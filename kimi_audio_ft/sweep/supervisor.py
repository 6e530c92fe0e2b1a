"""Runs a sweep's tasks as jobs of a cluster or of this machine, and tries again what a dead job has left unfinished."""

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
from kimi_audio_ft.runtime.time_limit import TimeLimit
from kimi_audio_ft.sweep import events
from kimi_audio_ft.sweep.events import Event
from kimi_audio_ft.sweep.plan import Task, Unit, even_chunks, write_task
from kimi_audio_ft.sweep.task import TaskEnvironment, log_path

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
    """A cluster that has worked cannot take a job now, and has logged the reason if it is a fault. Try again later."""


class Cluster(Protocol):
    """A queue of jobs: this machine, Slurm or Ray."""

    max_restarts: int
    """How often a job that was lost is submitted again."""
    per_machine: int
    """Jobs at most that share a machine, its cores and its memory."""

    def submit(self, task_file: Path, name: str) -> str:
        """Queue ``python -m kimi_audio_ft.sweep task_file``; returns the job's id. Raises UserError, NotNow."""

    def ended(self, jobs: Sequence[str]) -> Mapping[str, JobEnd]:
        """Those of the jobs that have ended and will not be requeued; those not known yet may be left out."""

    def stop(self, jobs: Sequence[str]) -> None:
        """Have jobs save and end; those that have not begun need not begin."""

    def close(self, jobs: Sequence[str]) -> None:
        """Disconnect; jobs that still run are ended."""


@dataclass
class Job:
    """A task that is queued or runs. open: its units that have not ended."""

    id: str
    task: Task
    name: str
    file: Path
    restarts: int
    reader: events.EventReader
    progress: events.Progress = field(default_factory=events.Progress)

    @property
    def open(self) -> list[Unit]:
        return [unit for unit in self.task.units if unit.key not in self.progress.ended]


@dataclass
class Supervisor:
    """Runs tasks as jobs.

    folder: of the sweep; every run has a folder of its own in ``packs/``.
    parallel: jobs at a time; None: all.
    environment: of jobs on other machines; None: jobs inherit this process's.
    poll_seconds: between two looks at the events of all tasks.
    retry_seconds: after which a cluster that did not answer is given its job again.
    """

    cluster: Cluster
    folder: Path
    parallel: int | None = None
    environment: TaskEnvironment | None = None
    poll_seconds: float = 0.5
    retry_seconds: float = 15.0

    def run(
        self,
        tasks: Sequence[Task],
        on_event: Callable[[Event], None],
        should_stop: Callable[[], bool],
        limit: TimeLimit | None = None,
    ) -> None:
        """Run all tasks; every unit ends in an event. ``on_event`` is called in this thread.

        Once ``should_stop()`` is true, or the limit near, jobs save their checkpoints and the remaining units are
        interrupted; jobs that have not ended when the limit is over are ended.

        Raises:
            UserError: the cluster cannot be used, or refuses a job.
        """
        run = _Run(self, _new_folder(self.folder / "packs"), on_event, should_stop, limit)
        for task in tasks:
            run.waiting.append((task, f"task-{task.number}", 0))
        try:
            while run.turn():
                time.sleep(self.poll_seconds)
        finally:
            self.cluster.close([job.id for job in run.running])


@dataclass
class _Run:
    """fitting: units whose training has begun in this run. suspected: those whose job has died with no other unit."""

    supervisor: Supervisor
    folder: Path
    on_event: Callable[[Event], None]
    should_stop: Callable[[], bool]
    limit: TimeLimit | None
    waiting: deque[tuple[Task, str, int]] = field(default_factory=deque)
    running: list[Job] = field(default_factory=list)
    fitting: set[str] = field(default_factory=set)
    suspected: set[str] = field(default_factory=set)
    asked: float | None = None
    not_before: float = 0.0  # when a job may be submitted, after a cluster has said NotNow

    def turn(self) -> bool:
        """Submit tasks, pass on events; returns whether any task is left."""
        stopping = self.should_stop() or self._is_near()
        if stopping:
            self._stop()
        self._submit_waiting()
        # Asked before the files are read: what a job wrote before its end is then in its file.
        ends = self.supervisor.cluster.ended([job.id for job in self.running])
        for job in list(self.running):
            self._hear(job)
            if not job.open or job.id in ends:
                self.running.remove(job)
                self._after(job, ends.get(job.id), stopping)
        if self.limit is not None and self.limit.is_over():
            self._end()
        return bool(self.waiting or self.running)

    def _is_near(self) -> bool:
        """Whether the limit says to stop; tells so once."""
        if self.limit is None or not self.limit.is_near():
            return False
        if self.asked is None and (self.waiting or self.running):
            log.info("%s; saving", self.limit.reached())
        return True

    def _end(self) -> None:
        """End jobs that have had time to save; what they saved last is resumed."""
        self.supervisor.cluster.close([job.id for job in self.running])
        for job in self.running:
            self._hear(job)  # what it has made since the last look
            for unit in job.open:
                self.on_event(job.progress.interrupted.get(unit.key) or events.Interrupted(unit.key))
        self.running.clear()

    def _submit_waiting(self) -> None:
        parallel = self.supervisor.parallel
        while self.waiting and (parallel is None or len(self.running) < parallel):
            if time.monotonic() < self.not_before:
                return
            try:
                self.running.append(self._submit(*self.waiting[0]))
            except NotNow:
                self.not_before = time.monotonic() + self.supervisor.retry_seconds
            else:
                self.waiting.popleft()

    def _submit(self, task: Task, name: str, restarts: int) -> Job:
        file = self.folder / f"{name}.json"
        write_task(task if task.log else replace(task, log=str(log_path(file))), file)
        if self.supervisor.environment is not None:
            self.supervisor.environment.write(file)
        reader = events.EventReader(events.events_path(file))
        reader.read()  # a restarted task's file has the events of its earlier job
        return Job(self.supervisor.cluster.submit(file, name), task, name, file, restarts, reader)

    def _hear(self, job: Job) -> None:
        for event in job.reader.read():
            self._pass_on(job, event)

    def _pass_on(self, job: Job, event: Event) -> None:
        if not job.progress.take(event):
            return
        if isinstance(event, events.Fitting):
            self.fitting.add(event.unit)
            # A task that is tried again in halves has one number, but as many names as jobs.
            event = replace(event, task=job.name)
        if isinstance(event, events.Ready):
            event = replace(event, fitted=event.unit in self.fitting)
        if isinstance(event, events.Ready | events.Paused) and self.supervisor.environment is not None:
            _refresh_store()
        self.on_event(event)

    def _after(self, job: Job, end: JobEnd | None, stopping: bool) -> None:
        """Interrupt, resubmit, split or fail the units that a job has left."""
        units, paused = job.open, job.progress.interrupted
        if not units:
            return
        assert end is not None
        if stopping:
            for unit in units:
                self.on_event(paused.get(unit.key) or events.Interrupted(unit.key))
        elif end.fate == "cancelled":
            self._fail(job, end, units)
        elif end.fate == "lost" or len(paused) == len(units):
            if job.restarts == self.supervisor.cluster.max_restarts:
                self._fail(job, end, units, f", and it has been started {job.restarts + 1} times")
                return
            log.info("%s: %s; resubmitted", job.name, end.reason)
            self.waiting.append((job.task.with_units(units), job.name, job.restarts + 1))
        else:
            self._split(job, end, units)

    def _split(self, job: Job, end: JobEnd, units: Sequence[Unit]) -> None:
        """Try what a job was working on again in halves, and the rest as it is.

        A job that was killed may have been working on any unit that it had begun; one that left because a pack broke
        has said which, or has failed a single unit by itself. One unit alone fails when its job dies again: the first
        time, somebody else's memory may have been the reason.
        """
        said = job.progress.split
        suspected = job.progress.begun or {unit.key for unit in units} if said is None else set(said.units)
        suspects = [unit for unit in units if unit.key in suspected]
        rest = [unit for unit in units if unit.key not in suspected]
        if len(suspects) == 1 and suspects[0].key in self.suspected:
            self._fail(job, end, suspects)
            suspects = []
        elif len(suspects) == 1:
            self.suspected.add(suspects[0].key)
            log.warning("%s: %s; tried once more", job.name, end.reason)
        elif suspects and said is None:
            self.on_event(events.Split([unit.key for unit in suspects], end.reason))
        task = job.task
        if said is not None and said.memory:
            task = replace(task, pack_size=max(1, len(suspects) // 2))
        groups = [group for group in (*even_chunks(suspects, 2), rest) if group]
        for number, group in enumerate(groups, 1):
            self.waiting.append((task.with_units(group), f"{job.name}.{number}", job.restarts))

    def _fail(self, job: Job, end: JobEnd, units: Sequence[Unit], more: str = "") -> None:
        message = f"{end.reason}{more}. "
        if end.fate != "cancelled":
            message += f"{self._where_to_look(Path(job.task.log or log_path(job.file)))}. "
        message += "Re-run the command to resume"
        for unit in units:
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
            self.supervisor.cluster.stop([job.id for job in self.running])


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

    NFS caches for a while that a name was absent; changing a folder, if only to the mode it has, makes it ask again.
    """
    for kind in ("adapter", "transcript"):
        folder = store_root() / kind
        try:
            folder.chmod(folder.stat().st_mode)
        except OSError:  # somebody else's folder, or none yet
            continue
