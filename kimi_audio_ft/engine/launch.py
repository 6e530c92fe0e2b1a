"""A sweep from its jobs to their returns: plan, make what the store lacks, then run every job as Hydra would."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn, configure_log, filter_overrides, setup_globals

from kimi_audio_ft import outcomes as known
from kimi_audio_ft.config.launcher import LauncherConfig
from kimi_audio_ft.engine.jobs import Job, Runner, is_training, prepare, refuse_to_sweep_scoring
from kimi_audio_ft.engine.work import Event, Task, Unit
from kimi_audio_ft.outcomes import BASE, Failure
from kimi_audio_ft.store.cache import one_moment
from kimi_audio_ft.store.usage import note, using
from kimi_audio_ft.sweep_folder import record_fitting, record_trials

if TYPE_CHECKING:
    from kimi_audio_ft.engine.view import JobLine, SweepView

log = logging.getLogger(__name__)


class Launch:
    """One call of the launcher: a batch of jobs."""

    def __init__(self, settings: LauncherConfig, runner: Runner) -> None:
        self.settings, self.runner = settings, runner
        self.folder = Path(str(runner.config.hydra.sweep.dir))
        self.stopping = False

    def compose(self, job_overrides: Sequence[Sequence[str]], first: int) -> list[Job]:
        """The batch's jobs, with what each needs.

        Raises:
            ConfigError: they would be scored under different options.
        """
        setup_globals()
        self._log_as_hydra()
        self.folder.mkdir(parents=True, exist_ok=True)
        jobs = self.runner.compose(job_overrides, first)
        if all(map(is_training, jobs)):
            refuse_to_sweep_scoring(jobs)
        with one_moment():
            for job in jobs:
                if is_training(job):
                    prepare(job)
        return jobs

    def run(self, job_overrides: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
        """Run all jobs; the returns are in their order."""
        jobs = self.compose(job_overrides, first)
        if not all(map(is_training, jobs)):
            return self._run_plainly(jobs)
        record_trials(self.folder, len(jobs))
        with using(self.folder):
            note(("adapter", job.key) for job in jobs if job.key is not None)
            return self._run_trials(jobs)

    def _run_trials(self, jobs: Sequence[Job]) -> list[JobReturn]:
        """Make what they need, then run every one as soon as it can."""
        from kimi_audio_ft.engine.needs import lacking
        from kimi_audio_ft.engine.view import SweepView

        with one_moment():
            units, untrained = lacking(jobs)
        missing = {unit.key for unit in units}
        with SweepView(job_lines(jobs, missing)) as view:
            batch = Batch(jobs, missing, self, view)
            batch.run_ready()
            if units:
                self.make(units, untrained, batch.event, view.stopping)
            record_fitting(self.folder, view.fitting_seconds)
            if self.stopping:
                raise KeyboardInterrupt
            batch.run_ready(all_of_them=True)
        known.FAILED.clear()
        return [job.returned for job in jobs if job.returned is not None]

    def make(
        self,
        units: Sequence[Unit],
        untrained: set[str],
        on_event: Callable[[Event], None],
        on_stop: Callable[[], None],
        **rung: Any,
    ) -> None:
        """Have units made; every event is passed on. rung: ``until`` and ``metric`` of the tasks."""
        from kimi_audio_ft.engine.executor import make_executor
        from kimi_audio_ft.engine.plan import make_tasks

        executor, places = make_executor(self.settings, units, self.folder)
        size = 0 if self.settings.pack_size == "auto" else self.settings.pack_size
        template = Task(
            0, [], self.settings.dispatch, size, self.settings.pack_same_data,
            log=str((self.folder / "packs.log").absolute()), **rung,
        )  # fmt: skip
        tasks = make_tasks(units, untrained, template, places)

        def stop() -> None:
            self.stopping = True
            on_stop()

        with one_ctrl_c(stop):
            executor.run(tasks, on_event, lambda: self.stopping)

    def run_job(self, job: Job) -> JobReturn:
        """Run one job; Hydra has its own logging for each."""
        try:
            return self.runner.run(job)
        finally:
            self._log_as_hydra()

    def _run_plainly(self, jobs: Sequence[Job]) -> list[JobReturn]:
        log.info("Launching %d jobs locally", len(jobs))
        returns = []
        for job in jobs:
            log.info("\t#%d : %s", job.number, " ".join(filter_overrides(job.overrides)))
            returns.append(self.run_job(job))
        return returns

    def _log_as_hydra(self) -> None:
        configure_log(self.runner.config.hydra.hydra_logging, self.runner.config.hydra.verbose)


def job_lines(jobs: Sequence[Job], missing: Container[str]) -> list[JobLine]:
    """The jobs as a view shows them, given the keys of the units that are not made yet."""
    from kimi_audio_ft.engine.view import JobLine
    from kimi_audio_ft.text import short_names

    names = short_names([job.overrides for job in jobs])
    return [
        JobLine(job.number, name, job.key or f"#{job.number}", "reused" if _has_all(job, missing) else "waiting")
        for job, name in zip(jobs, names, strict=True)
    ]


def _has_all(job: Job, missing: Container[str]) -> bool:
    return job.key is not None and job.key not in missing


class Batch:
    """Jobs that wait for units; each runs as soon as all that it needs is there, or has failed.

    missing: keys of the units that are not made yet.
    """

    def __init__(self, jobs: Sequence[Job], missing: set[str], launch: Launch, view: SweepView) -> None:
        self.jobs, self.missing, self.launch, self.view = jobs, missing, launch, view
        self.made = set(missing)

    def event(self, event: Event) -> None:
        """What happened to a unit."""
        self.view.event(event)
        key, name = event["unit"], event["event"]
        if name == "failed":
            facts = {field: event[field] for field in ("error_type", "message", "user", "traceback")}
            known.FAILED[key] = Failure(**facts)
        elif name == "ready" and event["fitted"]:
            known.FITTED.add(key)
        if name in ("ready", "failed"):
            self.missing.discard(key)
            self.run_ready()

    def run_ready(self, all_of_them: bool = False) -> None:
        """Run the jobs whose units are made, in order."""
        for job in self.jobs:
            if job.returned is None and (all_of_them or not self._needs(job) & self.missing):
                returned = self.launch.run_job(job)
                value = returned._return_value
                error = str(value) if isinstance(value, Exception) else None
                reused = job.key not in self.made
                cer = float(value) if isinstance(value, int | float) else None
                self.view.job_done(job.number, cer, error, reused)

    def _needs(self, job: Job) -> set[str]:
        baseline = job.settings is not None and job.settings.baseline
        return {job.key or "", *([BASE] if baseline else [])}


@contextmanager
def one_ctrl_c(stop: Callable[[], None]) -> Iterator[None]:
    """A first Ctrl-C, SIGTERM or SIGUSR1 calls ``stop`` and waits for what it does; a second Ctrl-C ends at once."""
    handled = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = {}

    def first(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        stop()

    try:
        for number in handled:
            before[number] = signal.signal(number, first)
    except ValueError:  # not the main thread: its own owner hears the signals
        before = {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
