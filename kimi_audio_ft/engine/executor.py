"""Where tasks run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from kimi_audio_ft.config.launcher import LauncherConfig
from kimi_audio_ft.engine.work import Event, Task, Unit
from kimi_audio_ft.runtime.devices import num_ranks


class Executor(Protocol):
    """Has tasks made."""

    def run(self, tasks: Sequence[Task], on_event: Callable[[Event], None], should_stop: Callable[[], bool]) -> None:
        """Run every task to its end; ``on_event`` is called in the calling thread."""


def make_executor(settings: LauncherConfig, units: Sequence[Unit], folder: Path) -> tuple[Executor, int]:
    """The executor that ``hydra.launcher.executor`` names, and how many tasks it can use at the same time.

    Args:
        folder: the sweep's.
    """
    if settings.executor != "local":
        from kimi_audio_ft.engine.clusters import cluster_executor

        return cluster_executor(settings, units, folder)
    from kimi_audio_ft.engine.local import LocalExecutor, places_here

    gpus = max(num_ranks(unit.config.trainer) for unit in units)
    if settings.gpus_per_pack != "auto":
        gpus = settings.gpus_per_pack
    threads = [unit.config.trainer.threads for unit in units]
    several = None if settings.parallel == "auto" else settings.parallel
    places = places_here(gpus, max(threads) if all(threads) else 0, several)
    return LocalExecutor(places), len(places)
