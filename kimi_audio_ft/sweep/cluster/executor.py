"""Executors of a sweep's tasks by ``hydra.launcher.executor``: this machine, or a Slurm or Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kimi_audio_ft.config.launcher import SLURM_JOBS, LauncherConfig
from kimi_audio_ft.errors import ConfigError
from kimi_audio_ft.runtime.devices import num_ranks, require_gpus
from kimi_audio_ft.runtime.signals import StopRequest
from kimi_audio_ft.runtime.time_limit import TimeLimit
from kimi_audio_ft.sweep.cluster import fork_server
from kimi_audio_ft.sweep.cluster.ray import RayCluster
from kimi_audio_ft.sweep.cluster.slurm import Slurm
from kimi_audio_ft.sweep.events import Event, Interrupted
from kimi_audio_ft.sweep.plan import Task, Unit, make_tasks
from kimi_audio_ft.sweep.supervisor import Supervisor
from kimi_audio_ft.sweep.task import sweep_environment

# Seconds between two looks at events on this machine, which cost nothing.
_LOCAL_POLL = 0.1


def make_units(
    settings: LauncherConfig,
    units: Sequence[Unit],
    untrained: set[str],
    folder: Path,
    on_event: Callable[[Event], None],
    on_stop: Callable[[], None] = lambda: None,
    meanwhile: Callable[[], None] = lambda: None,
    limit: TimeLimit | None = None,
    variables: Sequence[str] = (),
    **rung: Any,
) -> KeyboardInterrupt | None:
    """Make units by tasks; every event is passed on.

    Args:
        untrained: keys of those that are to be trained.
        on_stop: called when it is asked to stop.
        meanwhile: called while another process imports what the tasks need, if one does.
        limit: of the time of all launches; without one they end when all is made.
        variables: names of this process's environment variables that tasks on other machines need too.
        rung: ``until`` and ``metric`` of the tasks.

    Returns:
        What stopped it, to be raised: a person, or the limit, unless all was made; None: nothing did.
    """
    if settings.executor == "local" and fork_server.start_if_no_gpu():
        meanwhile()
    interrupted = False

    def pass_on(event: Event) -> None:
        nonlocal interrupted
        interrupted |= isinstance(event, Interrupted)
        on_event(event)

    supervisor, slots = make_supervisor(settings, units, folder, variables)
    size = 0 if settings.pack_size == "auto" else settings.pack_size
    log_file = str((folder / "packs.log").absolute()) if settings.executor == "local" else None
    template = Task(0, [], settings.dispatch, size, settings.pack_same_data, log_file, **rung)
    tasks = make_tasks(units, untrained, template, slots)
    together = min(len(tasks), slots, supervisor.cluster.per_machine)
    with StopRequest(on_stop) as stop:
        supervisor.run([replace(task, side_by_side=together) for task in tasks], pass_on, stop, limit)
    if stop():
        return KeyboardInterrupt()
    return limit.reached() if limit is not None and interrupted else None


def make_supervisor(
    settings: LauncherConfig, units: Sequence[Unit], folder: Path, variables: Sequence[str] = ()
) -> tuple[Supervisor, int]:
    """The supervisor of the tasks of a sweep, and how many tasks it can run at the same time.

    Args:
        folder: the sweep's; the nodes of a cluster must see it. variables: see ``make_units``.
    """
    parallel = None if settings.parallel == "auto" else settings.parallel
    if settings.executor == "local":
        return _on_this_machine(settings, units, folder)
    gpus = gpus_per_pack(settings, units)
    if settings.executor == "ray":
        ray = RayCluster(settings.ray, gpus)
        return Supervisor(ray, folder, parallel, sweep_environment(variables)), parallel or max(1, ray.slots)
    slurm = Slurm(settings.slurm, gpus)
    return Supervisor(slurm, folder, parallel, sweep_environment(variables)), parallel or SLURM_JOBS


def _on_this_machine(settings: LauncherConfig, units: Sequence[Unit], folder: Path) -> tuple[Supervisor, int]:
    from kimi_audio_ft.sweep.cluster.local import LocalMachine

    slots = local_slots(settings, units)
    machine = LocalMachine(slots)
    return Supervisor(machine, folder, len(slots), poll_seconds=_LOCAL_POLL, retry_seconds=_LOCAL_POLL), len(slots)


def local_slots(settings: LauncherConfig, units: Sequence[Unit]) -> list[dict[str, str]]:
    """Environment variables of tasks that this machine makes at the same time; ConfigError: it has fewer GPUs."""
    from kimi_audio_ft.sweep.cluster.local import device_slots

    gpus = max(num_ranks(unit.config.trainer) for unit in units)
    if settings.gpus_per_pack != "auto":
        gpus = int(settings.gpus_per_pack)
        require_gpus("hydra.launcher.gpus_per_pack", gpus, "Set hydra.launcher.gpus_per_pack=auto")
    threads = [unit.config.trainer.threads for unit in units]
    parallel = None if settings.parallel == "auto" else settings.parallel
    return device_slots(gpus, max(threads) if all(threads) else 0, parallel)


def gpus_per_pack(settings: LauncherConfig, units: Sequence[Unit]) -> int | None:
    """How many GPUs of a cluster the options ask for; None: one where the cluster has any."""
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
