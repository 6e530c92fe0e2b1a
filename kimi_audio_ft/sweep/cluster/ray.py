"""Tasks as Ray tasks, on a Ray cluster or on one that is started here."""

from __future__ import annotations

import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kimi_audio_ft.config.launcher import RayConfig
from kimi_audio_ft.errors import UserError
from kimi_audio_ft.sweep.supervisor import JobEnd
from kimi_audio_ft.sweep.task import INTERRUPTED, python_path
from kimi_audio_ft.text import first_line

log = logging.getLogger(__name__)

# Seconds that tasks have to save when the sweep itself ends early.
_GRACE = 10.0


class RayCluster:
    """Ray's queue. Ray stays connected until this process ends: it takes seconds to start.

    gpus_per_pack: None: one GPU where the cluster has any.
    """

    def __init__(self, settings: RayConfig, gpus_per_pack: int | None) -> None:
        if find_spec("ray") is None:
            raise UserError('hydra.launcher.executor=ray: the package ray is missing. Run pip install -e ".[cluster]"')
        self.settings = settings
        self.max_restarts = settings.max_restarts
        self._tasks: dict[str, Any] = {}
        self._ray = _connect(settings.address)
        there = self._ray.cluster_resources()
        self.asked = resources_of_pack(settings, gpus_per_pack, there)
        self.slots = packs_in(there, self.asked)
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        self.per_machine = max([1, *(packs_in(node, self.asked) for node in nodes)])
        if self.slots == 0:
            has = {name: there.get(name, 0) for name in self.asked}
            message = (
                f"hydra.launcher.ray: a pack asks for {self.asked}, and the cluster has {has} in all. Look at "
                "num_cpus_per_pack, resources and hydra.launcher.gpus_per_pack"
            )
            if settings.address is None:
                raise UserError(message)
            log.warning("%s. Waiting for a node that has them", message)  # one may be on its way

    def submit(self, task_file: Path, name: str) -> str:
        remote = self._ray.remote(
            num_cpus=self.asked["CPU"],
            num_gpus=self.asked.get("GPU", 0),
            resources=self.settings.resources,
            max_retries=0,
            name=f"kimi_audio_ft {name}",
        )
        handle = remote(worker_function(python_path())).remote(str(task_file))
        job = str(handle.hex())
        self._tasks[job] = handle
        return job

    def ended(self, jobs: Sequence[str]) -> dict[str, JobEnd]:
        """Ends of jobs; asks Ray at every call."""
        if not jobs:
            return {}
        done, _ = self._ray.wait([self._tasks[job] for job in jobs], num_returns=len(jobs), timeout=0)
        return {handle.hex(): _end(handle) for handle in done}

    def stop(self, jobs: Sequence[str]) -> None:
        """Cancel what waits; what runs gets a KeyboardInterrupt, and saves."""
        for job in jobs:
            self._ray.cancel(self._tasks[job], force=False)

    def close(self, jobs: Sequence[str]) -> None:
        """End tasks, with some seconds to save."""
        if jobs:
            self.stop(jobs)
            self._ray.wait([self._tasks[job] for job in jobs], num_returns=len(jobs), timeout=_GRACE)


def resources_of_pack(settings: RayConfig, gpus_per_pack: int | None, there: Mapping[str, float]) -> dict[str, float]:
    """Resources that a pack asks for, by Ray's names.

    Args:
        gpus_per_pack: None: one GPU where there are any. there: those of the whole cluster.
    """
    gpus = (1 if there.get("GPU") else 0) if gpus_per_pack is None else gpus_per_pack
    asked: dict[str, float] = {"CPU": settings.num_cpus_per_pack, "GPU": gpus, **settings.resources}
    return {name: amount for name, amount in asked.items() if amount}


def packs_in(there: Mapping[str, float], asked: Mapping[str, float]) -> int:
    """How many packs at a time a cluster, or a node, of these resources has room for."""
    return int(min(there.get(name, 0) // amount for name, amount in asked.items()))


def _connect(address: str | None) -> Any:
    """The package ray, connected to a cluster, or to one that it starts here."""
    import ray

    if ray.is_initialized():
        return ray
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody asked us to report this sweep to Ray's makers
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else it warns of a change to come
    where: dict[str, Any] = {"include_dashboard": False} if address is None else {"address": address}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **where)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(
            f"hydra.launcher.ray.address={address!r}: Ray cannot be reached: {error}. Start it with "
            "`ray start --head`, name its address, or set null to start one on this machine"
        ) from None
    return ray


def worker_function(path: str) -> Callable[[str], int]:
    """The function that Ray's worker runs: an inner one, which Ray sends by its code.

    The worker may read it before it can import this package, so it refers to nothing of the package by name.
    """

    def run(task_file: str) -> int:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # cancelled, it is interrupted, also under nohup
        sys.path[:0] = [entry for entry in path.split(":") if entry not in sys.path]
        # A process of its own: it can be sent signals, and its death or its memory is not the worker's.
        process = import_module("kimi_audio_ft.sweep.task").TaskProcess(Path(task_file))
        try:
            return int(process.wait())
        except KeyboardInterrupt:
            process.stop()
            return int(process.wait())

    return run


def _end(handle: Any) -> JobEnd:
    import ray
    from ray import exceptions

    try:
        code = ray.get(handle)
    except exceptions.TaskCancelledError:
        return JobEnd("cancelled", "the Ray task was cancelled")
    except exceptions.RayError as error:
        kind = type(error).__name__
        if isinstance(error, exceptions.NodeDiedError | exceptions.LocalRayletDiedError):
            return JobEnd("lost", f"the node of the Ray task died: {first_line(error, kind)}")
        return JobEnd("died", f"the Ray task died ({kind}): {first_line(error, kind)}")
    if code == INTERRUPTED:
        return JobEnd("lost", "the Ray task was stopped")
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    return JobEnd("died", f"the process of the Ray task {how}")
