"""What a person is told of Slurm: why it refused a job, why a job waits, how one ended, and what to do."""

from __future__ import annotations

import os
from dataclasses import dataclass

from kimi_audio_ft.config.launcher import SlurmConfig
from kimi_audio_ft.engine.cluster import JobEnd

_DIED = ("COMPLETED", "FAILED", "OUT_OF_MEMORY", "DEADLINE")
_LOST = ("TIMEOUT", "NODE_FAIL", "BOOT_FAIL", "PREEMPTED", "REVOKED")
_REMEDIES = {
    "OUT_OF_MEMORY": "raise hydra.launcher.slurm.mem_gb",
    "TIMEOUT": "raise hydra.launcher.slurm.signal_seconds if it had no time to save",
    "FAILED": "if Slurm cannot write logs there, it says nothing more",
}
# Why a job usually waits; other reasons a person should know.
_USUAL = ("None", "Priority", "Resources", "BeginTime", "Cleaning", "JobArrayTaskLimit")
# Reasons that do not pass by themselves: the job asks for what the partition or its nodes do not have.
_FOR_EVER = ("PartitionConfig", "PartitionTimeLimit", "PartitionNodeLimit", "BadConstraints")
# What Slurm's commands print when they do not reach the controller, or do not know where it is.
_UNREACHABLE = ("Unable to contact slurm controller", "configuration source", "configuration file")
_LIST = 'sinfo --format="%P %l %c %m %G"'


def is_unreachable(said: str) -> bool:
    """Whether a command of Slurm's failed because it did not reach the controller."""
    return any(words in said for words in _UNREACHABLE)


@dataclass(frozen=True)
class Asked:
    """What every job of a sweep asks for. gpus: of one job."""

    settings: SlurmConfig
    gpus: int

    def refused(self, said: str) -> str:
        """Why the first job could not be submitted, given what sbatch said."""
        if is_unreachable(said):
            conf = os.environ.get("SLURM_CONF")
            return (
                f"hydra.launcher.executor=slurm: sbatch does not reach Slurm's controller: {said}. The environment's "
                f"SLURM_CONF is {conf or 'not set'}; see that `sinfo` is answered in this shell and start the same "
                "command again, or use hydra.launcher.executor=local"
            )
        return f"hydra.launcher.slurm: sbatch refused the job: {said}. {self._all()}"

    def waits(self, job: str, reason: str) -> str | None:
        """What is unusual about a job that waits for this reason; None: nothing is."""
        if reason in _USUAL:
            return None
        if reason not in _FOR_EVER:
            return f"Slurm job {job} waits: {reason}"
        return (
            f"hydra.launcher.slurm: job {job} waits ({reason}) and will never start: its partition or its nodes do not "
            f"have what it asks for. {self._all()}. Press Ctrl-C and start again with other values"
        )

    def _all(self) -> str:
        names = ("partition", "account", "qos", "time_minutes", "mem_gb", "cpus_per_task")
        values = {name: value for name in names if (value := getattr(self.settings, name)) is not None}
        values |= {f"extra.{name}": value for name, value in self.settings.extra.items()}
        asked = ", ".join(f"{name}={value}" for name, value in values.items())
        return (
            f"Asked for were {asked} and {self.gpus} GPUs (hydra.launcher.gpus_per_pack); `{_LIST}` lists the "
            "partitions with their time limits, cores, memory in MB and GPUs"
        )


def end_of(job: str, state: str) -> JobEnd | None:
    """How a job ended that is in this state; None: it has not ended."""
    remedy = _REMEDIES.get(state)
    words = f"Slurm job {job} ended as {state}" + (f" ({remedy})" if remedy else "")
    if state in _LOST:
        return JobEnd("lost", words)
    if state == "CANCELLED":
        return JobEnd("cancelled", words)
    if state in _DIED or state.startswith("no longer"):
        return JobEnd("died", words)
    return None
