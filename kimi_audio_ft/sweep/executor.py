"""Executors: tasks run on this machine, or as jobs of a Slurm or Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from kimi_audio_ft.config.launcher import LauncherConfig
from kimi_audio_ft.errors import ConfigError
from kimi_audio_ft.runtime.devices import num_ranks
from kimi_audio_ft.sweep.cluster.executor import ClusterExecutor
from kimi_audio_ft.sweep.cluster.ray import RayCluster
from kimi_audio_ft.sweep.cluster.slurm import Slurm
from kimi_audio_ft.sweep.events import Event
from kimi_audio_ft.sweep.plan import Task, Unit

# Slurm jobs that share a sweep when hydra.launcher.parallel=auto: nobody can say how many a queue will run at a time.
_SLURM_JOBS = 4


class Executor(Protocol):
    """Runs tasks."""

    def run(self, tasks: Sequence[Task], on_event: Callable[[Event], None], should_stop: Callable[[], bool]) -> None:
        """Run every task to its end; ``on_event`` is called in the calling thread."""


def make_executor(settings: LauncherConfig, units: Sequence[Unit], folder: Path) -> tuple[Executor, int]:
    """The executor that ``hydra.launcher.executor`` names, and how many tasks it can use at the same time.

    Args:
        folder: the sweep's.
    """
    if settings.executor != "local":
        return cluster_executor(settings, units, folder)
    from kimi_audio_ft.sweep.supervisor import LocalExecutor, device_slots

    gpus = max(num_ranks(unit.config.trainer) for unit in units)
    if settings.gpus_per_pack != "auto":
        gpus = settings.gpus_per_pack
    threads = [unit.config.trainer.threads for unit in units]
    several = None if settings.parallel == "auto" else settings.parallel
    slots = device_slots(gpus, max(threads) if all(threads) else 0, several)
    return LocalExecutor(slots), len(slots)


def cluster_executor(settings: LauncherConfig, units: Sequence[Unit], folder: Path) -> tuple[ClusterExecutor, int]:
    """The executor of ``hydra.launcher.executor`` slurm or ray, and how many tasks it can use at the same time.

    Args:
        folder: the sweep's; the cluster's nodes must see it.
    """
    parallel = None if settings.parallel == "auto" else settings.parallel
    gpus = _gpus_per_pack(settings, units)
    if settings.executor == "ray":
        ray = RayCluster(settings.ray, gpus)
        return ClusterExecutor(ray, folder, parallel), parallel or max(1, ray.slots)
    slurm = Slurm(settings.slurm, gpus)
    return ClusterExecutor(slurm, folder, parallel), parallel or _SLURM_JOBS


def _gpus_per_pack(settings: LauncherConfig, units: Sequence[Unit]) -> int | None:
    """How many GPUs the options ask for; None: one where the cluster has any."""
    trainers = [unit.config.trainer for unit in units]
    if all(trainer.accelerator == "cpu" for trainer in trainers):
        return 0
    if settings.gpus_per_pack != "auto":
        return int(settings.gpus_per_pack)
    if any(trainer.strategy != "single" and trainer.devices == "auto" for trainer in trainers):
        rule = "says how many GPUs a cluster is asked for; trainer.devices=auto counts those of one machine"
        raise ConfigError("hydra.launcher.gpus_per_pack", "auto", rule, "Give a number")
    count = max(map(num_ranks, trainers))
    return None if count == 1 else count
