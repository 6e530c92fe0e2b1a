"""A training by several processes on this machine, one for each GPU, as one call."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kimi_audio_ft.config.train import SHARDED, TrainConfig
from kimi_audio_ft.runtime.devices import num_ranks
from kimi_audio_ft.runtime.signals import Interrupted, stop_on_signals
from kimi_audio_ft.runtime.workers import Send, WorkerDied, run_workers

if TYPE_CHECKING:
    from kimi_audio_ft.trial import Trial


def fit_in_workers(
    trial: Trial, folder: Path, work: Path, on_row: Callable[[dict[str, Any]], None] | None
) -> dict[str, Any]:
    """``Trial.fit`` in as many processes as the trainer's devices; arguments and result are the same.

    Ctrl-C reaches the processes by itself; other signals that end a training are passed on to them.
    """
    trial.data.setup()  # read, check and encode once, not in every process
    trial.base.release()
    facts: dict[str, Any] = {}

    def on_message(rank: int, message: dict[str, Any]) -> None:
        if "row" not in message:
            facts.update(message)
        elif on_row is not None:
            on_row(message["row"])

    with stop_on_signals(_pass_on) as stopped:
        try:
            run_workers(_fit_rank, (trial.config, folder, work), num_ranks(trial.config.trainer), on_message)
        except WorkerDied:
            if stopped():  # before it could listen
                raise KeyboardInterrupt from None
            raise
    if "interrupted" in facts:
        raise Interrupted(facts["interrupted"])
    return facts


def _pass_on(number: int) -> None:
    for child in multiprocessing.active_children():
        if number != signal.SIGINT and child.pid is not None:
            os.kill(child.pid, number)


def _fit_rank(rank: int, send: Send, config: TrainConfig, folder: Path, work: Path) -> None:
    from kimi_audio_ft.runtime.devices import limit_threads
    from kimi_audio_ft.runtime.libraries import quiet_libraries
    from kimi_audio_ft.trial import Trial

    # Busy threads of several processes on the same cores crawl.
    limit_threads(config.trainer.threads or max(1, (os.cpu_count() or 1) // num_ranks(config.trainer)))
    quiet_libraries()
    first = rank == 0
    logging.basicConfig(format="%(message)s", level=logging.WARNING if first else logging.ERROR)
    logging.getLogger("kimi_audio_ft.training").setLevel(logging.INFO if first else logging.ERROR)
    logging.getLogger("kimi_audio_ft.data").setLevel(logging.ERROR)  # the parent has said it
    config.trainer.progress = config.trainer.progress and first
    trial = Trial(config, rank)
    trial.base.sharded = config.trainer.strategy in SHARDED
    try:
        with stop_on_signals() as should_stop:
            facts = trial.fit(folder, work, (lambda row: send({"row": row})) if first else None, should_stop)
    except Interrupted as stop:
        facts = {"interrupted": stop.step}
    if first:
        send(facts)
