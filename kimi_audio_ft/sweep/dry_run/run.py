"""``hydra.launcher.dry_run``: a launch that starts nothing and prints what it would make, and how long that takes."""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig, OmegaConf
from rich.filesize import decimal

from kimi_audio_ft.config.launcher import SLURM_JOBS, LauncherConfig
from kimi_audio_ft.cost.machines import MACHINES, Machine, this_machine
from kimi_audio_ft.paths import store_root
from kimi_audio_ft.runtime.devices import limit_threads
from kimi_audio_ft.runtime.libraries import quiet_libraries
from kimi_audio_ft.sweep.cluster.executor import gpus_per_pack, local_slots
from kimi_audio_ft.sweep.cluster.ray import packs_in, resources_of_pack
from kimi_audio_ft.sweep.dry_run.prediction import Further, Prediction, Predictor
from kimi_audio_ft.sweep.dry_run.workload import Workload, rehearsed, workload_of
from kimi_audio_ft.sweep.halving import rung_steps
from kimi_audio_ft.sweep.pack_size import find_pack_size
from kimi_audio_ft.sweep.plan import Unit
from kimi_audio_ft.text import duration
from kimi_audio_ft.trial import Trial

if TYPE_CHECKING:
    from kimi_audio_ft.sweep.launch import Job

# Up to this size of a base (bytes) a CPU times a few real steps; for a larger one the time is computed from that of one
# matrix product.
_SMALL = 300e6


def dry_run(
    jobs: Sequence[Job], units: Sequence[Unit], untrained: set[str], settings: LauncherConfig, hydra: DictConfig
) -> str:
    """What a launch of these jobs would make and take, as lines to print.

    Args:
        units, untrained: what the store lacks, as ``launch.missing_units`` has found.
        hydra: Hydra's part of the config, whose sweeper may train only part of a grid, or more.
    """
    quiet_libraries()
    work = workload_of(jobs, units, untrained)
    with _Share() as share:
        machine, slots, measured = _machine(settings, work, units)
    steps = min((one.steps for one in work.trainings), default=0)
    further = further_of(OmegaConf.to_container(hydra.sweeper, resolve=True), steps)
    told = Predictor(machine, slots, settings, measured, share.busy).predict(work, further)
    return "\n".join(lines(work, told, machine, settings, further))


class _Share:
    """How many times as long as its own work this process takes inside it; 1 where nobody else computes."""

    busy = 1.0

    def __enter__(self) -> _Share:
        self._begun = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *error: object) -> None:
        wall, own = time.perf_counter() - self._begun[0], time.process_time() - self._begun[1]
        if own > 0.5:  # of less it cannot be told
            self.busy = max(1.0, wall / own)


def further_of(sweeper: Any, steps: int) -> Further:
    """What a sweeper does beside a grid, from its options: rungs of halving, seeds of finalists.

    Args:
        steps: of the shortest training; 0: nothing is trained.

    Raises:
        ConfigError: rungs do not lie inside it.
    """
    options: Mapping[str, Any] = sweeper if isinstance(sweeper, Mapping) else {}
    part, survivors, before = 1.0, 1.0, 0.0
    if "rungs" in options and steps:
        part = 0.0
        for step in rung_steps(options["rungs"], steps, "the shortest training"):
            at = step / steps
            part, survivors, before = part + survivors * (at - before), survivors / options["reduction_factor"], at
        part += survivors * (1 - before)
    seeds = (options.get("finalists") or 0) * (options.get("finalist_seeds", 1) - 1)
    return Further(part, seeds)


def _machine(settings: LauncherConfig, work: Workload, units: Sequence[Unit]) -> tuple[Machine, int, float | None]:
    """The machine that is told of, its slots, and the measured speed of a training where that is quickly had."""
    slots = slots_of(settings, units)
    if settings.dry_run is not True:
        return MACHINES[str(settings.dry_run)], slots, None
    if not work.configs:  # nothing to make
        return MACHINES["laptop"], slots, None
    configs = work.configs
    trainer, base = configs[0].trainer, Trial(configs[0]).base
    gpu = base.device.type == "cuda"
    limit_threads(trainer.threads)
    machine = this_machine(configs[0].model.dtype == "bfloat16", gpu)
    if gpu or not work.trainings or _size(base.files.root) > _SMALL:
        return machine, slots, None
    config = rehearsed(work.trainings[0].config)
    _, measured = find_pack_size([Trial(replace(config, trainer=replace(config.trainer, progress=False)))])
    sizes = measured["sizes"]  # none where a step does not fit into the memory
    return machine, slots, float(sizes[0]["tokens_per_second"]) if sizes else None


def slots_of(settings: LauncherConfig, units: Sequence[Unit]) -> int:
    """Tasks at a time; of another machine, or a Ray cluster, nobody knows how many it holds."""
    open_ = SLURM_JOBS if settings.executor == "slurm" else 1
    asked = open_ if settings.parallel == "auto" else int(settings.parallel)
    if settings.dry_run is not True or not units or _is_elsewhere(settings):
        return asked
    if settings.executor == "local":
        return len(local_slots(settings, units))
    there = {"CPU": os.cpu_count() or 1, "GPU": torch.cuda.device_count()}
    held = max(1, packs_in(there, resources_of_pack(settings.ray, gpus_per_pack(settings, units), there)))
    return held if settings.parallel == "auto" else min(asked, held)


def _is_elsewhere(settings: LauncherConfig) -> bool:
    """Whether tasks run on other machines; without an address Ray is started on this one."""
    return settings.executor == "slurm" or (settings.executor == "ray" and settings.ray.address is not None)


def _size(folder: Path) -> int:
    """Bytes of a checkpoint's weights."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def lines(work: Workload, told: Prediction, machine: Machine, settings: LauncherConfig, further: Further) -> list[str]:
    """The prediction in words, a line for each matter."""
    measured = settings.dry_run is True and bool(work.configs)  # where nothing is made, nothing is measured
    how = "measured now" if measured else "from published figures"
    free = shutil.disk_usage(next(place for place in (store_root(), *store_root().parents) if place.is_dir())).free
    memory = "does not fit" if told.peak is None else f"{decimal(told.peak)} at the peak"
    found = [
        "Dry run: nothing is started.",
        f"  trials       {work.trials}, of which {work.scored} need only scoring",
        f"  adapters     {work.adapters} to train, {work.stored_adapters} in the store; {work.steps:,} optimizer steps",
        f"  transcripts  {work.transcripts} to decode, {work.stored_transcripts} in the store",
        f"  recordings   {work.recordings} to encode ({duration(work.recording_seconds)})",
        f"  memory       {memory}, of {decimal(round(machine.memory))} of {machine.name}",
        f"  disk         about {decimal(told.disk)} ({decimal(free)} free)",
    ]
    if told.peak is None:
        found.append(f"  time         unknown: an adapter does not fit; {machine.name}, {how}")
    else:
        found += [*_times(told), f"               {told.hours:.2g} device-hours; {machine.name}, {how}"]
    if measured and _is_elsewhere(settings):
        name, (first, *others) = settings.executor.capitalize(), MACHINES
        found.append(f"  machine      measured was this one ({platform.node()}), not a node of {name}'s;")
        found.append(f"               hydra.launcher.dry_run={first} ({', '.join(others)}) tells of such a machine")
    if told.together is not None:
        found.append(f"  batches      of about {told.together} utterances are decoded (decoding.batch_size=auto)")
    if further.trainings:
        found.append(f"  finalists    {further.trainings} further trainings are in the time, their trials are not")
    if further.part < 1:
        found.append(f"  halving      {100 * further.part:.0f} % of the trainings' steps are in the time")
    if settings.hours is not None and told.peak is not None and told.seconds > 3600 * settings.hours:
        starts = -(-told.seconds // (3600 * settings.hours))
        found.append(f"  hours        more than hydra.launcher.hours={settings.hours:g}: about {starts:.0f} starts")
    found += [f"  INVALID      {error}" for error in work.invalid]
    return found


def _times(told: Prediction) -> list[str]:
    """Lines of its time, and of the speed of a training."""
    times = [("training", told.training), ("decoding", told.decoding), ("encoding", told.encoding)]
    parts = ", ".join(f"{name} {duration(seconds)}" for name, seconds in times if seconds)
    found = [f"  time         about {duration(told.seconds)} on {told.slots} at a time: {parts or 'nothing to make'}"]
    if told.tokens_per_second:
        found.append(f"               {told.tokens_per_second:,.0f} positions a second while one trains")
    return found
