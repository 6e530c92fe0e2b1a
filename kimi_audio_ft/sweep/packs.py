"""Training of one pack of a task's units, in the task's process or in one process for every rank."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from kimi_audio_ft import store
from kimi_audio_ft.config.train import SHARDED
from kimi_audio_ft.inputs import Inputs
from kimi_audio_ft.outcomes import Failure
from kimi_audio_ft.runtime.devices import in_workers, num_ranks, share_threads
from kimi_audio_ft.runtime.libraries import quiet_libraries
from kimi_audio_ft.runtime.signals import Interrupted, StopRequest
from kimi_audio_ft.runtime.workers import Send, print_into, run_workers
from kimi_audio_ft.sweep.events import Event, Failed, Point, Step
from kimi_audio_ft.sweep.plan import Task, Unit
from kimi_audio_ft.training.ending import TrainingFailed
from kimi_audio_ft.trial import Trial

Results = dict[str, dict[str, Any] | TrainingFailed]
"""By unit key, as ``training.fit.fit_adapters`` returns them."""


def train_pack(task: Task, inputs: Inputs, send: Callable[[Event], None], should_stop: Callable[[], bool]) -> Results:
    """Train a task's units as one pack, here or in one process for every rank; see ``fit_pack``."""
    config = task.units[0].config
    if not in_workers(config.trainer):
        return fit_pack(task, inputs, send, should_stop)
    base = inputs.base(config)
    if config.trainer.strategy in SHARDED:
        base.require_one_gpu_holds_it(config.trainer.strategy)
    base.about_to_compute()
    for unit in {unit.config.seed: unit for unit in task.units}.values():
        # Not in every rank: one that heard a stop while it waited for another's encoding would be missed by that one.
        quiet_trial(unit, inputs).data.setup()
    base.release()  # the ranks need the devices
    said: list[Results | Interrupted] = []

    def on_message(rank: int, message: Event | Results | Interrupted) -> None:
        if isinstance(message, Event):
            send(message)
        else:
            said.append(message)

    run_workers(_fit_rank, (task,), num_ranks(config.trainer), on_message, should_stop=should_stop)
    [end] = said
    if isinstance(end, Interrupted):
        raise end
    return end


def require_planned(units: Sequence[Unit], inputs: Inputs, now: Inputs) -> None:
    """Raise a ChangedError unless adapters trained from the files as they are ``now`` are those that were planned."""
    for unit in units:
        trial = Trial(unit.config, inputs=inputs)
        trial.require_unchanged(unit.key, unit.planned_evaluation(unit.config), now)


def quiet_trial(unit: Unit, inputs: Inputs, rank: int = 0) -> Trial:
    """The trial that trains a unit, without a progress bar."""
    return Trial(replace(unit.config, trainer=replace(unit.config.trainer, progress=False)), rank, inputs)


def dispatch_of(task: Task, trial: Trial) -> str:
    """How a pack's updates are computed on the trial's device."""
    if task.dispatch != "auto":
        return task.dispatch
    return "batched" if trial.base.device.type == "cuda" else "slice"


def fit_pack(
    task: Task, inputs: Inputs, send: Callable[[Event], None], should_stop: Callable[[], bool], rank: int = 0
) -> Results:
    """Train the units of a task as one pack, as one of its ranks; the drafts of their adapters are there.

    Raises:
        Interrupted: they were asked to stop, and have saved.
        ChangedError: what they are trained from is not what was planned.
    """
    from kimi_audio_ft.training.adapters import AdapterSpec
    from kimi_audio_ft.training.fit import fit_adapters

    trials = {unit.key: quiet_trial(unit, inputs, rank) for unit in task.units}
    first = trials[task.units[0].key]
    first.base.about_to_compute()  # packs side by side that all take all cores need twice the time
    first.base.sharded = first.config.trainer.strategy in SHARDED
    one_order = len({trial.config.seed for trial in trials.values()}) == 1
    data = first.data if one_order else {key: trial.data for key, trial in trials.items()}
    for trial in [first] if one_order else trials.values():
        trial.data.setup()
    require_planned(task.units, inputs, Inputs())
    specs = [
        AdapterSpec(
            key,
            trial.config.lora,
            trial.config.optim,
            trial.config.seed,
            store.draft_folder("adapter", key),
            store.work_folder("adapter", key),
        )
        for key, trial in trials.items()
    ]
    return fit_adapters(
        first.base, specs, data, first.config.trainer, dispatch=dispatch_of(task, first), until=task.until,
        on_row=lambda key, row: send(Point(key, row)),
        on_step=lambda key, step, steps, loss, speed: send(Step(key, step, steps, loss, speed)),
        on_failure=lambda key, failure: send(Failed(key, Failure.of(failure))),
        should_stop=should_stop,
    )  # fmt: skip


def _fit_rank(rank: int, send: Send, task: Task) -> None:
    """``fit_pack`` as one of several processes; the first sends events, and what it returns or raises."""
    # The task's process alone answers Ctrl-C and the signals of a cluster, with one SIGTERM.
    stop = StopRequest(ignore_ctrl_c=True).listen()
    print_into(task.log, logging.INFO if rank == 0 else logging.CRITICAL)  # what all ranks meet is logged once
    settings = task.units[0].config.trainer
    share_threads(settings.threads, num_ranks(settings))
    quiet_libraries()
    logging.getLogger("kimi_audio_ft.data").setLevel(logging.ERROR)  # the task's process has said it
    tell: Callable[[Any], None] = send if rank == 0 else lambda message: None
    try:
        tell(fit_pack(task, Inputs(), tell, stop, rank))
    except Interrupted as interrupted:
        tell(interrupted)
