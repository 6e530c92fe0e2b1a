"""Options of ``hydra.launcher.slurm`` and ``hydra.launcher.ray``."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from kimi_audio_ft.schema import require

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
    """What a Slurm job, which makes one task of adapters, asks for; null leaves it to the cluster."""

    partition: str | None = None  # Partition that jobs are sent to.
    account: str | None = None  # Account that they are charged to.
    qos: str | None = None  # Their quality of service.
    time_minutes: int = 240  # Time limit of one run; a job that needs longer saves, is queued again and goes on.
    mem_gb: float | None = None  # Memory of a job in GB.
    cpus_per_task: int = 4  # CPU cores of a job.
    signal_seconds: int = 120  # Seconds before the time limit at which a job saves; a step must be shorter.
    max_requeues: int = 10  # How often a job that ran out of time, or lost its node, is queued again.
    poll_seconds: float = 10.0  # Seconds between two questions to Slurm about the states of all jobs.
    extra: dict[str, Any] = field(
        default_factory=dict
    )  # Further sbatch options by their long names: {constraint: a100}.

    def __post_init__(self) -> None:
        name = "hydra.launcher.slurm"
        for option in ("time_minutes", "cpus_per_task", "signal_seconds"):
            require(getattr(self, option) >= 1, f"{name}.{option}", getattr(self, option), "must be 1 or more")
        require(self.max_requeues >= 0, f"{name}.max_requeues", self.max_requeues, "must be 0 or more")
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
    """What a Ray task, which makes one task of adapters, asks for."""

    address: str | None = (
        None  # Address of a running Ray cluster ("auto": the one that this node belongs to); null: start Ray here.
    )
    num_cpus_per_pack: float = 1  # CPU cores that Ray sets aside for one.
    resources: dict[str, float] = field(default_factory=dict)  # Custom resources of the cluster that it needs.
    max_restarts: int = 3  # How often one whose node is lost is started again.

    def __post_init__(self) -> None:
        name = "hydra.launcher.ray"
        require(self.num_cpus_per_pack > 0, f"{name}.num_cpus_per_pack", self.num_cpus_per_pack, "must be more than 0")
        require(self.max_restarts >= 0, f"{name}.max_restarts", self.max_restarts, "must be 0 or more")
        for key, amount in self.resources.items():
            require(key not in ("CPU", "GPU", "memory"), f"{name}.resources", key, "must be a custom resource",
                    "CPUs are num_cpus_per_pack, GPUs are hydra.launcher.gpus_per_pack")  # fmt: skip
            require(amount > 0, f"{name}.resources.{key}", amount, "must be more than 0")
