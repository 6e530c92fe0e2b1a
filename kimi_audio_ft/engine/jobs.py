"""A sweep's jobs as Hydra composes and runs them, and what each needs from the store."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, run_job
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from kimi_audio_ft.cli import to_settings
from kimi_audio_ft.schema import TrainConfig


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
        jobs = []
        for number, overrides in enumerate(job_overrides, start=first):
            config = self.context.config_loader.load_sweep_config(self.config, list(overrides))
            with open_dict(config):
                config.hydra.job.id = number
                config.hydra.job.num = number
            jobs.append(Job(number, list(overrides), config))
        return jobs

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


def prepare(job: Job) -> None:
    """Settle what the job needs, without reading a weight."""
    from kimi_audio_ft.trial import Trial

    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(job.config)  # for configs that refer to hydra's own
    try:
        settings = to_settings(_without_hydra(job.config))
        trial = Trial(settings)
        trial.base.targets(settings.lora)
        job.key, job.settings = trial.training_signature, settings
    except Exception as error:  # the job fails with it when it runs, in its own log
        job.error = error
    finally:
        HydraConfig.instance().cfg = before


def _without_hydra(config: DictConfig) -> DictConfig:
    """A job's own config, of its own type, as Hydra gives it to the task."""
    own = copy.deepcopy(config)
    with read_write(own), open_dict(own):
        del own["hydra"]
    return own
