"""A sweep's jobs as Hydra composes and runs them, and what each needs from the store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, run_job
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from kimi_audio_ft.cli import to_settings
from kimi_audio_ft.config.train import TrainConfig
from kimi_audio_ft.engine.compose import compose_jobs
from kimi_audio_ft.errors import ConfigError


@dataclass
class Job:
    """One job.

    key: its adapter's training signature; None when its config is not valid, which the job itself says when it runs.
    error: what is wrong with it then.
    """

    number: int
    overrides: list[str]
    config: DictConfig
    settings: TrainConfig | None = None
    key: str | None = None
    error: Exception | None = None
    returned: JobReturn | None = None


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
        """Run a job here and now."""
        job.returned = run_job(
            hydra_context=self.context,
            task_function=self.task,
            config=job.config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
        return job.returned


def is_training(job: Job) -> bool:
    """Whether a job is one of our trials; the launcher runs any other Hydra app's jobs as they come."""
    return OmegaConf.get_type(job.config) is TrainConfig


def refuse_to_sweep_scoring(jobs: Sequence[Job]) -> None:
    """All trials of a sweep are scored alike, for they are compared.

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
                remedy = "Give it one value. The same command with another value scores again, and trains nothing"
                raise ConfigError(f"scoring.{name}", value, rule, remedy)


def prepare(job: Job) -> None:
    """Settle what the job needs, without reading a weight."""
    from kimi_audio_ft.trial import Trial

    before = HydraConfig.instance().cfg
    HydraConfig.instance().cfg = job.config  # type: ignore[assignment]  # for configs that refer to hydra's own
    try:
        settings = _settings(job.config)
        trial = Trial(settings)
        trial.base.targets(settings.lora)
        job.key, job.settings = trial.training_signature, settings
    except Exception as error:  # the job fails with it when it runs, in its own log
        job.error = error
    finally:
        HydraConfig.instance().cfg = before


def _settings(config: DictConfig) -> Any:
    """A job's own config, as Hydra gives it to the task, as its dataclass."""
    content = config.__dict__["_content"]
    hydra = content.pop("hydra")  # for a moment: a copy without it takes most of a sweep's planning
    try:
        return to_settings(config)
    finally:
        content["hydra"] = hydra
