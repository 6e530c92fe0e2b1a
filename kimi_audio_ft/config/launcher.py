"""Options of ``hydra/launcher=packed`` and of ``hydra/sweeper=halving``, ``finalists`` and ``listed``; Hydra composes
them as ``hydra.launcher`` and ``hydra.sweeper``.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

from omegaconf import OmegaConf

from kimi_audio_ft.config.checks import at_least, count_or_auto, one_of, require

# Machines that a dry run can tell of, besides this one (cost.machines).
MACHINES = ("h100", "a100", "4090", "laptop")
# Where the tasks of a sweep run.
EXECUTORS = ("local", "slurm", "ray")
# Slurm jobs that share a sweep when hydra.launcher.parallel=auto: nobody can say how many a queue will run at a time.
SLURM_JOBS = 4
# sbatch options that the executor sets: a job that is told otherwise could not be followed, or would not come back.
_OURS = ("array", "chdir", "error", "job-name", "nodes", "ntasks", "ntasks-per-node", "open-mode", "output", "requeue")
_OURS_ELSEWHERE = {
    "partition": "partition",
    "account": "account",
    "qos": "qos",
    "time": "time_minutes",
    "mem": "mem_gb",
    "cpus-per-task": "cpus_per_task",
    "signal": "signal_seconds",
}


@dataclass
class SlurmConfig:
    """Resources and limits of a Slurm job, which runs one task; null leaves one to the cluster."""

    partition: str | None = None  # Partition that jobs are sent to.
    account: str | None = None  # Account that they are charged to.
    qos: str | None = None  # Their quality of service.
    time_minutes: int = 240  # Time limit of one run; a job that needs longer saves, is queued again and goes on.
    mem_gb: float | None = None  # Memory of a job in GB.
    cpus_per_task: int = 4  # CPU cores of a job.
    signal_seconds: int = 120  # Seconds before the time limit at which a job saves; a step must be shorter.
    max_requeues: int = 10  # How often a job that ran out of time, was preempted or lost its node is queued again.
    poll_seconds: float = 10.0  # Seconds between two questions to Slurm about the states of all jobs.
    # Further sbatch options by their long names: {constraint: a100}.
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        name = "hydra.launcher.slurm"
        at_least(1, self, f"{name}.", "time_minutes", "cpus_per_task", "signal_seconds")
        at_least(0, self, f"{name}.", "max_requeues")
        require(self.poll_seconds > 0, f"{name}.poll_seconds", self.poll_seconds, "must be more than 0")
        require(self.mem_gb is None or self.mem_gb > 0, f"{name}.mem_gb", self.mem_gb, "must be more than 0")
        require(
            self.signal_seconds < 60 * self.time_minutes, f"{name}.signal_seconds", self.signal_seconds,
            f"must be less than the time limit ({60 * self.time_minutes} seconds)",
        )  # fmt: skip
        for key in self.extra:
            option = key.replace("_", "-")
            plain = re.fullmatch(r"[a-z][a-z0-9-]*", option) is not None
            require(plain, f"{name}.extra", key, "must be sbatch's long name of an option, such as constraint")
            require(option not in _OURS, f"{name}.extra", key, "is set by the executor, which relies on it")
            own = _OURS_ELSEWHERE.get(option, "")
            require(not own, f"{name}.extra", key, "has an option of its own", f"Set {name}.{own}")


@dataclass
class RayConfig:
    """Resources of a Ray task, which runs one task of the sweep."""

    # Address of a running Ray cluster ("auto": the one that this node belongs to); null: start Ray here.
    address: str | None = None
    num_cpus_per_pack: float = 1  # CPU cores that Ray sets aside for one.
    resources: dict[str, float] = field(default_factory=dict)  # Custom resources of the cluster that it needs.
    max_restarts: int = 3  # How often one whose node is lost is started again.

    def __post_init__(self) -> None:
        name = "hydra.launcher.ray"
        require(self.num_cpus_per_pack > 0, f"{name}.num_cpus_per_pack", self.num_cpus_per_pack, "must be more than 0")
        at_least(0, self, f"{name}.", "max_restarts")
        for key, amount in self.resources.items():
            require(key not in ("CPU", "GPU", "memory"), f"{name}.resources", key, "must be a custom resource",
                    "CPUs are num_cpus_per_pack, GPUs are hydra.launcher.gpus_per_pack")  # fmt: skip
            require(amount > 0, f"{name}.resources.{key}", amount, "must be more than 0")


@dataclass
class LauncherConfig:
    """How a sweep's adapters are trained together, and where."""

    _target_: str = "hydra_plugins.kimi_audio_ft_packed.launcher.PackedLauncher"
    pack_size: Any = "auto"  # Adapters that train together at most; auto tries a few sizes, 1 trains each by itself.
    pack_same_data: bool = True  # Only adapters with the same seed share a pack; false also packs over seeds.
    dispatch: str = "auto"  # slice (on most CPUs bit-equal to solo), batched (faster on a GPU), auto: by the device.
    executor: str = "local"  # local: this machine; slurm and ray: packs are jobs of a cluster.
    gpus_per_pack: Any = "auto"  # GPUs of one pack; auto: as many as trainer.devices asks for.
    # Packs side by side; auto: what the GPUs (or Ray) hold, without GPUs the cores at trainer.threads, 4 Slurm jobs.
    parallel: Any = "auto"
    # Most hours of the whole sweep: shortly before their end it saves, stops and reports what there is, with exit code
    # 75; the same command resumes it. null is no limit.
    hours: float | None = None
    # Start nothing; print what the sweep would make, how long that takes, and what the store has. true: on this
    # machine, measured in a few seconds; or on one of another kind: h100, a100, 4090 or laptop.
    dry_run: Any = False
    slurm: SlurmConfig = field(default_factory=SlurmConfig)  # What a Slurm job asks for.
    ray: RayConfig = field(default_factory=RayConfig)  # What a Ray task asks for.

    def __post_init__(self) -> None:
        for name in ("pack_size", "gpus_per_pack", "parallel"):
            count_or_auto(f"hydra.launcher.{name}", getattr(self, name))
        if self.hours is not None:
            rule = "must be a number of hours greater than 0"
            known = math.isfinite(self.hours) and self.hours > 0
            require(known, "hydra.launcher.hours", self.hours, rule, "Use 0.5 for half an hour, or null for no limit")
        if not isinstance(self.dry_run, bool):
            self.dry_run = str(self.dry_run)  # YAML reads 4090 as a number
            rule = f"must be true (this machine), false, or one of {', '.join(MACHINES)}"
            require(self.dry_run in MACHINES, "hydra.launcher.dry_run", self.dry_run, rule)
        one_of("hydra.launcher.dispatch", self.dispatch, ("auto", "slice", "batched"))
        one_of("hydra.launcher.executor", self.executor, EXECUTORS)


def is_dry_run(config: Any) -> bool:
    """Whether a composed config asks its launcher to start nothing."""
    return bool(OmegaConf.select(config, "hydra.launcher.dry_run"))


@dataclass
class FurtherSeeds:
    """Further seeds for the best settings of a sweep."""

    # How many of the best settings are trained with further seeds, as further trials; null is none.
    finalists: int | None = None
    finalist_seeds: int = 3  # Seeds of a finalist in all: its own, and those that follow it.
    trials: str | None = None  # CSV or YAML file that lists trials, instead of a product of values; null is none.

    def __post_init__(self) -> None:
        none = "Write hydra.sweeper.finalists=null for no further seeds"
        at_least(1, self, "hydra.sweeper.", "finalists", remedy=none)
        at_least(2, self, "hydra.sweeper.", "finalist_seeds", remedy=none)
        listed = self.trials is None or bool(self.trials)
        require(listed, "hydra.sweeper.trials", self.trials, "must name a CSV or YAML file that lists the trials")


@dataclass
class FinalistsConfig(FurtherSeeds):
    """Every combination of values, as Hydra's basic sweeper makes them, and then the finalists."""

    _target_: str = "hydra_plugins.kimi_audio_ft_finalists.sweeper.FinalistsSweeper"
    finalists: int | None = 3  # How many of the best settings are trained with further seeds; null is none.
    max_batch_size: int | None = None  # Trials that are launched at a time; null launches all, which packs them best.
    params: dict[str, str] | None = None  # Values to sweep over, as in the basic sweeper.

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "hydra.sweeper.", "max_batch_size")


@dataclass
class ListedConfig(FinalistsConfig):
    """The trials of a file, each with every combination of the command's own values."""

    finalists: int | None = None  # How many of the best settings are trained with further seeds; null is none.
    trials: str | None = ""  # CSV or YAML file that lists the trials (docs/hydra.md).


METRICS = ("cer", "loss")


@dataclass
class HalvingConfig(FurtherSeeds):
    """Successive halving: the rungs at which trainings are compared, and how many continue."""

    _target_: str = "hydra_plugins.kimi_audio_ft_halving.sweeper.HalvingSweeper"
    params: dict[str, str] | None = None  # Values to sweep over, as in the basic sweeper; the grid's adapters compete.
    rungs: list[Any] = field(default_factory=lambda: [0.25, 0.5])  # Optimizer steps, or fractions of the training.
    reduction_factor: float = 2.0  # Of n adapters that reach a rung, the best n / reduction_factor go on.
    # What is compared: cer (greedy decoding of data.eval_manifest, by scoring.rank_by) or loss (on its answers).
    metric: str = "cer"
    max_candidates: int | None = None  # Number of adapters drawn from a larger grid; null takes all.
    seed: int = 1  # Seed of that draw.

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("hydra.sweeper.metric", self.metric, METRICS)
        rule = "must be greater than 1: of n adapters, the best n / reduction_factor go on"
        factor = self.reduction_factor
        require(math.isfinite(factor) and factor > 1, "hydra.sweeper.reduction_factor", factor, rule)
        require(bool(self.rungs), "hydra.sweeper.rungs", self.rungs, "needs at least one rung", "Write [0.5]")
        rule = "a rung is a number of optimizer steps, such as 100, or a fraction of the training, such as 0.25"
        for rung in self.rungs:
            number = isinstance(rung, int | float) and not isinstance(rung, bool)
            inside = number and (rung >= 1 if isinstance(rung, int) else 0 < rung < 1)
            require(inside, "hydra.sweeper.rungs", rung, rule)
        at_least(1, self, "hydra.sweeper.", "max_candidates")
