"""A launch of a sweep's jobs: plan them, make the adapters and transcripts that the store lacks, run them as Hydra."""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import (
    JobReturn,
    JobStatus,
    configure_log,
    env_override,
    filter_overrides,
    run_job,
    setup_globals,
)
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from kimi_audio_ft import store
from kimi_audio_ft.cli import to_settings
from kimi_audio_ft.config.launcher import LauncherConfig
from kimi_audio_ft.config.train import TrainConfig
from kimi_audio_ft.errors import ConfigError
from kimi_audio_ft.inputs import Inputs
from kimi_audio_ft.outcomes import BASE, Outcomes
from kimi_audio_ft.runtime.signals import StopRequest
from kimi_audio_ft.store.signature import canonical
from kimi_audio_ft.store.usage import note, using
from kimi_audio_ft.sweep.cluster.executor import make_supervisor
from kimi_audio_ft.sweep.compose import compose_jobs, to_yaml
from kimi_audio_ft.sweep.events import Event, Failed, Ready
from kimi_audio_ft.sweep.plan import Task, Unit, make_tasks
from kimi_audio_ft.sweep.report import SweepReport
from kimi_audio_ft.sweep.view.screen import SweepView
from kimi_audio_ft.sweep.view.state import JobLine
from kimi_audio_ft.sweep_folder import record_fitting
from kimi_audio_ft.text import short_names
from kimi_audio_ft.trial import Trial, TrialPlan

log = logging.getLogger(__name__)


@dataclass
class Job:
    """One job.

    folder, trial, plan: where it writes, and what it makes, decided before anything is made; the last two are None when
    its config is not valid. error: what is wrong with the config; the job raises it again when it runs.
    """

    number: int
    overrides: list[str]
    config: DictConfig
    folder: Path | None = None
    trial: Trial | None = None
    plan: TrialPlan | None = None
    error: Exception | None = None
    returned: JobReturn | None = None

    @property
    def key(self) -> str | None:
        """Key of its adapter's unit: the training signature."""
        return self.plan.adapter if self.plan else None


class Launch:
    """One call of the launcher: a batch of jobs."""

    def __init__(self, settings: LauncherConfig, runner: Runner) -> None:
        self.settings, self.runner = settings, runner
        self.folder = Path(str(runner.config.hydra.sweep.dir))
        self.stopping = False

    def compose(self, job_overrides: Sequence[Sequence[str]], first: int) -> list[Job]:
        """The batch's jobs, with the plan of each.

        Raises:
            ConfigError: they would be scored under different options.
        """
        setup_globals()
        self._log_as_hydra()
        self.folder.mkdir(parents=True, exist_ok=True)
        jobs = self.runner.compose(job_overrides, first)
        if all(map(is_training, jobs)):
            refuse_to_sweep_scoring(jobs)
        inputs = Inputs()
        for job in jobs:
            if is_training(job):
                prepare(job, inputs)
        return jobs

    def run(self, job_overrides: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
        """Run all jobs; the returns are in their order."""
        jobs = self.compose(job_overrides, first)
        if not all(map(is_training, jobs)):
            return self._run_plainly(jobs)
        SweepReport.record({job.number: (job.folder, job.overrides) for job in jobs if job.folder is not None})
        with using(self.folder):
            note(("adapter", job.key) for job in jobs if job.key is not None)
            return self._run_trials(jobs)

    def _run_trials(self, jobs: Sequence[Job]) -> list[JobReturn]:
        """Make what the store lacks; run each job as soon as its units are made."""
        units, untrained = missing_units(jobs)
        missing = {unit.key for unit in units}
        with SweepView(job_lines(jobs, missing)) as view:
            batch = Batch(jobs, missing, self, view)
            batch.run_ready()
            if units:
                self.make(units, untrained, batch.event, view.stopping)
            record_fitting(self.folder, view.state.fitting_seconds)
            if self.stopping:
                raise KeyboardInterrupt
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
        supervisor, slots = make_supervisor(self.settings, units, self.folder)
        size = 0 if self.settings.pack_size == "auto" else self.settings.pack_size
        log_file = str((self.folder / "packs.log").absolute()) if self.settings.executor == "local" else None
        template = Task(0, [], self.settings.dispatch, size, self.settings.pack_same_data, log_file, **rung)
        tasks = make_tasks(units, untrained, template, slots)

        with StopRequest(on_stop) as stop:
            supervisor.run(tasks, on_event, stop)
        self.stopping = stop()

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


class Batch:
    """Jobs that wait for units; each runs as soon as its units are made, or have failed.

    missing: keys of the units that are not made yet.
    """

    def __init__(self, jobs: Sequence[Job], missing: set[str], launch: Launch, view: SweepView) -> None:
        self.jobs, self.missing, self.launch, self.view = jobs, missing, launch, view
        self.outcomes = Outcomes()
        for job in jobs:
            if job.trial is not None:
                job.trial.outcomes = self.outcomes

    def event(self, event: Event) -> None:
        """Take in an event; run the jobs that waited for its unit."""
        self.view.event(event)
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
        for job in self.jobs:
            if job.returned is None and (all_of_them or not self._needs(job) & self.missing):
                with job.trial.given_to_job() if job.trial else nullcontext():
                    returned = self.launch.run_job(job)
                value = returned._return_value
                error = str(value) if isinstance(value, Exception) else None
                cer = float(value) if isinstance(value, int | float) else None
                self.view.job_done(job.number, cer, error)

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


# How Hydra composes and runs the jobs, and what each needs from the store.


@dataclass
class Runner:
    """Composes and runs jobs exactly as Hydra's basic launcher does."""

    context: HydraContext
    task: TaskFunction
    config: DictConfig

    def compose(self, job_overrides: Sequence[Sequence[str]], first: int) -> list[Job]:
        """Every job's config, fixed now: a file that is edited while the sweep runs changes nothing."""
        configs = compose_jobs(self.context.config_loader, self.config, job_overrides, first)
        both = zip(job_overrides, configs, strict=True)
        return [Job(number, list(overrides), config) for number, (overrides, config) in enumerate(both, start=first)]

    def run(self, job: Job) -> JobReturn:
        """Run a job in this process."""
        if is_training(job):
            job.returned = self._run_quickly(job)
        else:
            job.returned = run_job(self.task, job.config, "hydra.sweep.dir", "hydra.sweep.subdir", self.context)
        return job.returned

    def _run_quickly(self, job: Job) -> JobReturn:
        """As Hydra's ``run_job``, without its four copies of a config that nobody else has, and with libyaml.

        ``hydra.job.chdir`` is ignored: paths stay relative to the folder that the command was started in.
        """
        config, hydra, callbacks = job.config, job.config.hydra, self.context.callbacks
        folder = Path(hydra.sweep.dir, hydra.sweep.subdir).absolute()
        with read_write(hydra.runtime), open_dict(hydra.runtime):
            hydra.runtime.output_dir = str(folder)
        with without_hydra(config):
            own = deepcopy(config)
        returned = JobReturn(list(hydra.overrides.task), own, config, str(Path.cwd()), str(hydra.job.name))
        before, HydraConfig.instance().cfg = HydraConfig.instance().cfg, config  # type: ignore[assignment]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            configure_log(hydra.job_logging, hydra.verbose)
            if hydra.output_subdir is not None:
                beside = folder / hydra.output_subdir
                beside.mkdir(parents=True, exist_ok=True)
                for name, values in {"config": own, "hydra": hydra, "overrides": hydra.overrides.task}.items():
                    plain = OmegaConf.to_container(values, enum_to_str=True)
                    text = to_yaml({"hydra": plain} if name == "hydra" else plain)
                    (beside / f"{name}.yaml").write_text(text, encoding="utf-8")
            with env_override(hydra.job.env_set):
                callbacks.on_job_start(config=config, task_function=self.task)
                try:
                    returned.return_value, returned.status = self.task(own), JobStatus.COMPLETED
                except Exception as error:
                    returned.return_value, returned.status = error, JobStatus.FAILED
            for handler in logging.getLogger().handlers:
                handler.flush()
            callbacks.on_job_end(config=config, job_return=returned)
        finally:
            HydraConfig.instance().cfg = before
        return returned


def is_training(job: Job) -> bool:
    """Whether a job is one of our trials; the launcher runs any other Hydra app's jobs as they come."""
    return OmegaConf.get_type(job.config) is TrainConfig


def refuse_to_sweep_scoring(jobs: Sequence[Job]) -> None:
    """All trials of a sweep must be scored alike, because they are compared.

    Raises:
        ConfigError: an option of scoring differs between them; nothing was trained.
    """
    options = [cast(dict[str, Any], OmegaConf.to_container(job.config.scoring)) for job in jobs]
    for job, given in zip(jobs, options, strict=True):
        for name, value in given.items():
            first = options[0][name]
            if value != first:
                rule = (
                    f"differs between the trials of this sweep ({first!r} in trial {jobs[0].number}, {value!r} in "
                    f"trial {job.number}), and only trials that were scored alike can be compared"
                )
                remedy = "Give it one value. Re-running the command with another value only rescores"
                raise ConfigError(f"scoring.{name}", value, rule, remedy)


def prepare(job: Job, inputs: Inputs) -> None:
    """Make the job's trial and plan, and check its targets, without reading a weight."""
    before = HydraConfig.instance().cfg
    HydraConfig.instance().cfg = job.config  # type: ignore[assignment]  # for configs that refer to hydra's own
    try:
        sweep = job.config.hydra.sweep
        job.folder = Path(str(sweep.dir), str(sweep.subdir))
        with without_hydra(job.config):
            settings = to_settings(job.config)
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
