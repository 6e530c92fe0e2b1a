"""A launch of a sweep's jobs: plan them, make the adapters and transcripts that the store lacks, run them as Hydra."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NoReturn, cast

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import (
    JobReturn,
    JobRuntime,
    JobStatus,
    configure_log,
    env_override,
    filter_overrides,
    run_job,
    setup_globals,
)
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict, read_write

from kimi_audio_ft import store
from kimi_audio_ft.cli import settings_of, to_settings
from kimi_audio_ft.config.launcher import LauncherConfig
from kimi_audio_ft.config.train import ScoringConfig, TrainConfig
from kimi_audio_ft.errors import ConfigError
from kimi_audio_ft.files import write_changed
from kimi_audio_ft.inputs import Inputs
from kimi_audio_ft.outcomes import BASE, Outcomes
from kimi_audio_ft.runtime.time_limit import TimeLimit
from kimi_audio_ft.store.signature import canonical
from kimi_audio_ft.store.usage import note, using
from kimi_audio_ft.sweep.cluster.executor import make_units
from kimi_audio_ft.sweep.compose import JobConfig, TemplateLoader, shared_environment
from kimi_audio_ft.sweep.events import Event, Failed, Ready, UnitEvent
from kimi_audio_ft.sweep.plan import Unit
from kimi_audio_ft.sweep.report import SweepReport
from kimi_audio_ft.sweep.view.job_log import JobLog
from kimi_audio_ft.sweep.view.records import LiveRecords
from kimi_audio_ft.sweep.view.screen import SweepView
from kimi_audio_ft.sweep.view.state import JobLine
from kimi_audio_ft.sweep_folder import record_fitting
from kimi_audio_ft.text import short_names
from kimi_audio_ft.trial import Trial, TrialPlan

log = logging.getLogger(__name__)


@dataclass
class Job:
    """One job.

    config, is_training: its config, and whether it is one of our trials. folder, trial, plan: where it writes, and what
    it makes, decided before anything is made; the last two are None when its config is not valid. error: what is wrong
    with the config; the job raises it again when it runs.
    """

    number: int
    overrides: list[str]
    config: JobConfig
    is_training: bool = True
    folder: Path | None = None
    trial: Trial | None = None
    plan: TrialPlan | None = None
    error: Exception | None = None
    returned: JobReturn | None = None

    @property
    def key(self) -> str | None:
        """Key of its adapter's unit: the training signature."""
        return self.plan.adapter if self.plan else None

    def composed(self, lent: bool = False) -> DictConfig:
        """Its config when it runs, Hydra's part included; ``lent``: only to look at, until another job's is."""
        config = self.config.lent() if lent else self.config.composed()
        sweep, runtime = config.hydra.sweep, config.hydra.runtime
        folder = self.folder or Path(str(sweep.dir), str(sweep.subdir))
        with read_write(runtime), open_dict(runtime):
            runtime.output_dir = str(folder.absolute())
        return config


class Returned(JobReturn):
    """A job's return; the configs of a thousand jobs would fill the memory, so they are composed when asked for."""

    def __init__(self, job: Job) -> None:
        self._job, self._return_value, self.status = job, None, JobStatus.UNKNOWN
        self.overrides, self.working_dir, self.task_name = job.overrides, str(Path.cwd()), JobRuntime().get("name")

    @property
    def adapter(self) -> str | None:
        """The job's training signature."""
        return self._job.key

    @property
    def hydra_cfg(self) -> DictConfig:  # type: ignore[override]
        return self._job.composed()

    @property
    def cfg(self) -> DictConfig:  # type: ignore[override]
        config = self._job.composed()
        with without_hydra(config):
            return deepcopy(config)


class Launch:
    """One call of the launcher: a batch of jobs.

    limit: on the time of the whole sweep. records: live records of the trials; halving shares one set over its
    launches. stopped: the Ctrl-C or time limit that ended this launch early.
    """

    def __init__(
        self,
        settings: LauncherConfig,
        runner: Runner,
        limit: TimeLimit | None = None,
        records: LiveRecords | None = None,
    ) -> None:
        self.settings, self.runner, self.limit = settings, runner, limit
        self.folder = Path(str(runner.config.hydra.sweep.dir))
        self.records = records or LiveRecords(str(self.folder), local=settings.executor == "local")
        self.stopped: KeyboardInterrupt | None = None

    def compose(self, job_overrides: Sequence[Sequence[str]], first: int) -> list[Job]:
        """The batch's jobs, with the plan of each.

        Raises:
            ConfigError: they would be scored under different options.
        """
        setup_globals()
        self.log_as_hydra()
        self.folder.mkdir(parents=True, exist_ok=True)
        jobs, inputs = [], Inputs()
        for job in self.runner.jobs(job_overrides, first):
            if job.is_training:
                prepare(job, inputs)
            jobs.append(job)
        refuse_to_sweep_scoring(jobs)
        return jobs

    def run(self, job_overrides: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
        """Run all jobs; the returns are in their order."""
        try:
            return self._run(job_overrides, first)
        except (Exception, KeyboardInterrupt) as end:
            SweepReport.give_up(job_overrides, again=isinstance(end, KeyboardInterrupt))
            raise

    def _run(self, job_overrides: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
        jobs = self.compose(job_overrides, SweepReport.first_number() + first)
        if self.settings.dry_run:
            self._tell(jobs)
        if not all(job.is_training for job in jobs):
            return self._run_plainly(jobs)
        SweepReport.limit = self.limit
        SweepReport.record({job.number: (job.folder, job.overrides) for job in jobs if job.folder is not None})
        with using(self.folder):
            note(("adapter", job.key) for job in jobs if job.key is not None)
            return self._run_trials(jobs)

    def _tell(self, jobs: Sequence[Job]) -> NoReturn:
        """Print what these jobs would make, and end: whatever comes next would depend on their results."""
        from kimi_audio_ft.sweep.dry_run.run import dry_run

        if not all(job.is_training for job in jobs):
            rule = "tells of trainings, and these jobs are none"
            raise ConfigError("hydra.launcher.dry_run", self.settings.dry_run, rule, "Leave it out")
        print(dry_run(jobs, *missing_units(jobs), self.settings, self.runner.config.hydra), flush=True)
        sys.exit(0)

    def _run_trials(self, jobs: Sequence[Job]) -> list[JobReturn]:
        """Make what the store lacks; run each job as soon as its units are made."""
        units, untrained = missing_units(jobs)
        missing = {unit.key for unit in units}
        with SweepView(job_lines(jobs, missing), rank_by=rank_by(jobs)) as view:
            batch = Batch(jobs, missing, self, view)
            batch.run_ready()
            with batch.records:
                if units:
                    self.make(units, untrained, batch.event, view.stopping)
                record_fitting(self.folder, view.state.fitting_seconds)
                if self.stopped is not None:
                    raise self.stopped
                batch.run_ready(all_of_them=True)
        return [job.returned for job in jobs if job.returned is not None]

    def make(
        self,
        units: Sequence[Unit],
        untrained: set[str],
        on_event: Callable[[Event], None],
        on_stop: Callable[[], None],
        **rung: Any,
    ) -> None:
        """Make units; every event is passed on. rung: ``until`` and ``metric`` of the tasks."""
        variables = shared_environment(self.runner.config)
        options: dict[str, Any] = {"meanwhile": SweepReport.prepare, "limit": self.limit, **rung}
        with env_override(variables):
            given = (self.settings, units, untrained, self.folder, on_event, on_stop)
            self.stopped = make_units(*given, variables=tuple(variables), **options)

    def _run_plainly(self, jobs: Sequence[Job]) -> list[JobReturn]:
        log.info("Launching %d jobs locally", len(jobs))
        returns = []
        for job in jobs:
            log.info("\t#%d : %s", job.number, " ".join(filter_overrides(job.overrides)))
            returns.append(self.runner.run(job))
            self.log_as_hydra()
        return returns

    def log_as_hydra(self) -> None:
        """Log as between jobs, each of which has a log of its own."""
        configure_log(self.runner.config.hydra.hydra_logging, self.runner.config.hydra.verbose)


class Batch:
    """Jobs that wait for units; each runs as soon as its units are made, or have failed.

    missing: keys of the units that are not made yet.
    """

    def __init__(self, jobs: Sequence[Job], missing: set[str], launch: Launch, view: SweepView) -> None:
        self.jobs, self.missing, self.launch, self.view = jobs, missing, launch, view
        self.outcomes = Outcomes()
        self.records = launch.records
        for job, name in zip(jobs, short_names([job.overrides for job in jobs]), strict=True):
            if job.trial is not None:
                job.trial.outcomes, job.trial.name = self.outcomes, name
                self.records.add(job.key, job.trial, job.folder)

    def event(self, event: Event) -> None:
        """Take in an event; run the jobs that waited for its unit."""
        self.view.event(event)
        if isinstance(event, UnitEvent):
            self.records.event(event)
        if not isinstance(event, Ready | Failed):
            return
        if isinstance(event, Failed):
            self.outcomes.failed[event.unit] = event.failure
        elif event.fitted:
            self.outcomes.fitted.add(event.unit)
        self.missing.discard(event.unit)
        self.run_ready()

    def run_ready(self, all_of_them: bool = False) -> None:
        """Run the jobs whose units are made, in order."""
        ready = [
            job for job in self.jobs if job.returned is None and (all_of_them or not self._needs(job) & self.missing)
        ]
        try:
            for job in ready:
                self._run(job)
        finally:
            if ready:
                self.launch.log_as_hydra()

    def _run(self, job: Job) -> None:
        with job.trial.given_to_job() if job.trial else nullcontext():
            value = self.launch.runner.run(job)._return_value
        self.records.closed(job.trial)
        error = str(value) if isinstance(value, Exception) else None
        rate = float(value) if isinstance(value, int | float) else None
        self.view.job_done(job.number, rate, error)

    def _needs(self, job: Job) -> set[str]:
        base = job.plan is not None and job.plan.base_transcripts
        return {job.key or "", *([BASE] if base else [])}


def job_lines(jobs: Sequence[Job], missing: Container[str]) -> list[JobLine]:
    """Lines of the view, given the keys of the units that are not made yet."""
    lines = []
    for job, name in zip(jobs, short_names([job.overrides for job in jobs]), strict=True):
        made = job.key is not None and job.key not in missing
        lines.append(JobLine(job.number, name, job.key or f"#{job.number}", made))
    return lines


def rank_by(jobs: Sequence[Job]) -> str:
    """The error rate that the jobs are ranked by, which all share."""
    return next((job.trial.config.scoring.rank_by for job in jobs if job.trial is not None), ScoringConfig.rank_by)


# How Hydra composes and runs the jobs, and what each needs from the store.


@dataclass
class Runner:
    """Composes and runs jobs exactly as Hydra's basic launcher does."""

    context: HydraContext
    task: TaskFunction
    config: DictConfig
    _log: JobLog = field(default_factory=JobLog)

    def jobs(self, job_overrides: Sequence[Sequence[str]], first: int) -> Iterator[Job]:
        """Every job; its config may be looked at (``lent``) until the next one is asked for."""
        loader = cast(TemplateLoader, self.context.config_loader)
        for number, overrides in enumerate(job_overrides, start=first):
            config = loader.job(self.config, overrides, number)
            yield Job(number, list(overrides), config, config.template.schema is TrainConfig)

    def run(self, job: Job) -> JobReturn:
        """Run a job in this process."""
        if job.is_training:
            job.returned = self._run_quickly(job)
        else:
            config = job.config.composed()
            job.returned = run_job(self.task, config, "hydra.sweep.dir", "hydra.sweep.subdir", self.context)
        return job.returned

    def _run_quickly(self, job: Job) -> JobReturn:
        """As Hydra's ``run_job``, with libyaml, and without its copies of a config that nobody else has.

        ``hydra.job.chdir`` is ignored: paths stay relative to the folder that the command was started in.
        """
        callbacks = self.context.callbacks
        config = job.composed(lent=all(type(one) is SweepReport for one in callbacks.callbacks))
        hydra, folder = config.hydra, Path(config.hydra.runtime.output_dir)
        returned = Returned(job)
        before, HydraConfig.instance().cfg = HydraConfig.instance().cfg, config  # type: ignore[assignment]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._log.open(hydra, job.config.template.values["hydra"]["job_logging"], folder)
            if hydra.output_subdir is not None:
                beside = folder / hydra.output_subdir
                beside.mkdir(exist_ok=True)
                for name, text in job.config.texts(job.config.values(folder)).items():
                    write_changed(beside / name, text)
            given = self._given(job, config)
            with env_override(hydra.job.env_set):
                callbacks.on_job_start(config=config, task_function=self.task)
                try:
                    returned.return_value, returned.status = self.task(given), JobStatus.COMPLETED
                except Exception as error:
                    returned.return_value, returned.status = error, JobStatus.FAILED
            for handler in logging.getLogger().handlers:
                handler.flush()
            callbacks.on_job_end(config=config, job_return=returned)
        finally:
            HydraConfig.instance().cfg = before
        return returned

    def _given(self, job: Job, config: DictConfig) -> Any:
        """What the task is given: the planned settings, or, as by Hydra, a copy of its own config."""
        if job.trial is not None and job.config.is_plain and hasattr(self.task, "takes_settings"):
            return job.trial.config
        with without_hydra(config):
            return deepcopy(config)


def refuse_to_sweep_scoring(jobs: Sequence[Job]) -> None:
    """All trials of a sweep must be scored alike, because they are compared.

    Raises:
        ConfigError: an option of scoring differs between them; nothing was trained.
    """
    scorings = [(job.number, asdict(job.trial.config.scoring)) for job in jobs if job.trial is not None]
    for number, scoring in scorings:
        one, options = scorings[0]
        for name, value in scoring.items():
            if value != options[name]:
                rule = (
                    f"differs between the trials of this sweep ({options[name]!r} in trial {one}, {value!r} in "
                    f"trial {number}), and only trials that were scored alike can be compared"
                )
                remedy = "Give it one value. Re-running the command with another value only rescores"
                raise ConfigError(f"scoring.{name}", value, rule, remedy)


def prepare(job: Job, inputs: Inputs) -> None:
    """Make the job's trial and plan, and check its targets, without reading a weight."""
    before, config = HydraConfig.instance().cfg, job.config.lent()
    HydraConfig.instance().cfg = config  # type: ignore[assignment]  # for configs that refer to hydra's own
    try:
        job.folder = Path(str(config.hydra.sweep.dir), str(config.hydra.sweep.subdir))
        if job.config.is_plain:
            values = job.config.values(job.folder)
            settings = settings_of(TrainConfig, {name: values[name] for name in values if name != "hydra"})
        else:
            with without_hydra(config):
                settings = to_settings(config)
        trial = Trial(settings, inputs=inputs)
        trial.base.targets(trial.config.lora)
        job.trial, job.plan = trial, trial.plan
    except Exception as error:  # the job fails with it when it runs, in its own log
        job.trial, job.error = None, error
    finally:
        HydraConfig.instance().cfg = before


@contextmanager
def without_hydra(config: DictConfig) -> Iterator[None]:
    """A job's own config, as Hydra gives it to the task; copying Hydra's part would take most of the time."""
    content = config.__dict__["_content"]
    hydra = content.pop("hydra")
    try:
        yield
    finally:
        content["hydra"] = hydra


def missing_units(jobs: Sequence[Job]) -> tuple[list[Unit], set[str]]:
    """Units to be made: adapters to be trained, and what they and the base alone have to decode.

    Returns:
        The units in the order of the first job of each, the base first; and the keys of those that must be trained.
    """
    needed: dict[str, Unit] = {}
    ways: set[tuple[str, str]] = set()
    untrained: set[str] = set()
    find = cache(store.find)

    def need(key: str, config: TrainConfig, evaluation: str) -> None:
        way = (key, canonical([asdict(config.data), asdict(config.decoding), config.seed]))
        if way not in ways:
            ways.add(way)
            unit = needed.setdefault(key, Unit(key, []))
            unit.jobs.append(config)
            unit.evaluations.append(evaluation)

    for job in jobs:
        if job.trial is None or job.plan is None:
            continue
        plan, config = job.plan, job.trial.config
        if find("adapter", plan.adapter) is None:
            untrained.add(plan.adapter)
        if plan.adapter in untrained or any(find("transcript", name) is None for name in plan.transcripts):
            need(plan.adapter, config, plan.evaluation)
        if any(find("transcript", name) is None for name in plan.base_transcripts):
            need(BASE, config, plan.evaluation)
    return sorted(needed.values(), key=lambda unit: unit.key != BASE), untrained
