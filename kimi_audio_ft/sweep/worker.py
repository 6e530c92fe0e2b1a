"""A task's process: trains its adapters in packs over one base, then decodes all that their jobs ask for.

A process that only decodes does without Lightning, which takes a second or two to import.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch.multiprocessing import _prctl_pr_set_pdeathsig  # type: ignore[attr-defined]  # made in C

from kimi_audio_ft import store
from kimi_audio_ft.config.train import TrainConfig
from kimi_audio_ft.decoding.request import DecodingRequest
from kimi_audio_ft.decoding.transcripts import EvaluationSet, decode_all
from kimi_audio_ft.errors import UserError
from kimi_audio_ft.files import raise_if_full
from kimi_audio_ft.outcomes import BASE, Failure
from kimi_audio_ft.paths import store_root
from kimi_audio_ft.runtime.devices import limit_threads
from kimi_audio_ft.runtime.libraries import quiet_libraries
from kimi_audio_ft.runtime.signals import Interrupted, StopRequest
from kimi_audio_ft.runtime.workers import Send
from kimi_audio_ft.scoring import score
from kimi_audio_ft.store.signature import canonical
from kimi_audio_ft.sweep import events
from kimi_audio_ft.sweep.events import Decoding, Event, Failed, Fitting, Paused, Ready, Split, Step
from kimi_audio_ft.sweep.plan import Task, Unit, even_chunks, grouped, pack_units
from kimi_audio_ft.text import first_line
from kimi_audio_ft.training.adapters import AdapterSpec
from kimi_audio_ft.training.ending import TrainingFailed
from kimi_audio_ft.trial import Trial

log = logging.getLogger(__name__)

# Seconds between two messages about a decoding's progress.
_EVERY = 0.5
# Messages of PyTorch's allocator on a CPU, where it raises a plain RuntimeError.
_OUT_OF_MEMORY = ("not enough memory", "can't allocate memory")


def work(rank: int, send: Send, task: Task, untrained: Sequence[str], decoding: bool) -> None:
    """Make a task's units, as one of ``task.ranks`` processes that train together; every event is sent on.

    Args:
        untrained: keys of the units that are to be trained; the sender holds their locks.
        decoding: whether this process also decodes.
    """
    # The supervisor alone answers Ctrl-C, with one SIGTERM; a cluster that takes its node back sends SIGUSR1/2.
    # Never undone: a signal must not end this process while its last events are being sent.
    stop = StopRequest(also=[signal.SIGUSR2], ignore_ctrl_c=True).listen()
    _die_with_supervisor()
    _set_up(rank, task)
    Worker(rank, send, task, stop).run(set(untrained), decoding)


def _die_with_supervisor() -> None:
    """Have the kernel kill this process when the supervisor dies, whose locks are gone then.

    PyTorch asks the kernel for SIGINT, which is ignored here.
    """
    _prctl_pr_set_pdeathsig(signal.SIGKILL)


def _set_up(rank: int, task: Task) -> None:
    if task.log is not None:
        target = os.open(task.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(target, stream.fileno())
    threads = task.units[0].config.trainer.threads
    # Busy threads of several processes on the same cores crawl.
    limit_threads(threads or (max(1, (os.cpu_count() or 1) // task.ranks) if task.ranks > 1 else 0))
    quiet_libraries()
    level = logging.INFO if rank == 0 else logging.CRITICAL  # what all ranks meet is logged once
    logging.basicConfig(format="[%(asctime)s] %(message)s", level=level, force=True)


class Worker:
    """One process of a task. Only rank 0 writes products and sends events."""

    def __init__(self, rank: int, send: Send, task: Task, should_stop: Callable[[], bool]) -> None:
        self.rank, self.task, self.should_stop = rank, task, should_stop
        self.send: Callable[[Event], None] = send if rank == 0 else lambda event: None
        self.pack_size = task.pack_size
        self._failed_keys: set[str] = set()
        self._evaluations: dict[str, EvaluationSet] = {}

    def run(self, untrained: set[str], decoding: bool) -> None:
        """Decode what needs no training, then train pack by pack, decoding each pack's units at once."""
        units = self.task.units
        if decoding:
            self.decode([unit for unit in units if unit.key not in untrained])
        for pack in pack_units([unit for unit in units if unit.key in untrained], self.task.same_data):
            for part in self._in_step(pack):
                self._packs(part, decoding)

    def _in_step(self, units: list[Unit]) -> list[list[Unit]]:
        """Units whose epochs have equally many optimizer steps: with other seeds, batches are cut elsewhere."""
        if len({unit.config.seed for unit in units}) == 1:
            return [units]

        def steps(unit: Unit) -> tuple[int, ...]:
            data = self._trial(unit).data
            data.setup()
            return data.steps_by_epoch(unit.config.trainer.max_epochs)

        return grouped(units, steps)

    def _packs(self, units: list[Unit], decoding: bool) -> None:
        """Train units that can share a pack, in packs of the fastest size."""
        left = list(units)
        while left:
            if self.should_stop():
                return self._interrupt(left, None)
            size = self._size(left)
            for pack in self._resumable(left[:size]):
                made = self._fit(pack)
                if decoding:
                    self.decode(made)
            left = left[size:]
        return None

    def _size(self, units: list[Unit]) -> int:
        if self.pack_size == 0 and len(units) > 1:
            from kimi_audio_ft.sweep.pack_size import probed_pack_size

            trials = [self._trial(unit) for unit in units]
            self.pack_size = probed_pack_size(trials, self._dispatch(trials[0]), self.task.ranks)
        return max(1, self.pack_size)

    def _resumable(self, units: list[Unit]) -> list[list[Unit]]:
        """Parts of a pack that can resume from the same step."""
        from kimi_audio_ft.training.checkpoint import group_by_resume

        by_key = {unit.key: unit for unit in units}
        groups = group_by_resume({key: store.work_folder("adapter", key) for key in by_key})
        return [[by_key[key] for key in group] for group in groups]

    def _fit(self, pack: list[Unit]) -> list[Unit]:
        """Train one pack.

        Returns:
            The units whose adapters are in the store now.
        """
        try:
            return self._fit_pack(pack)
        except Interrupted as stop:
            self._interrupt([unit for unit in pack if unit.key not in self._failed_keys], stop.step)
        except Exception as error:
            self._broken([unit for unit in pack if unit.key not in self._failed_keys], error)
        finally:
            if self.rank == 0:
                for unit in pack:
                    store.discard("adapter", unit.key)
        return []

    def _fit_pack(self, pack: list[Unit]) -> list[Unit]:
        from kimi_audio_ft.training.fit import fit_adapters

        trials = {unit.key: self._trial(unit) for unit in pack}
        first = trials[pack[0].key]
        one_order = len({trial.config.seed for trial in trials.values()}) == 1
        data = first.data if one_order else {key: trial.data for key, trial in trials.items()}
        specs = [
            AdapterSpec(
                key,
                trial.config.lora,
                trial.config.optim,
                trial.config.seed,
                store.begin("adapter", key) if self.rank == 0 else store.draft_folder("adapter", key),
                store.work_folder("adapter", key),
            )
            for key, trial in trials.items()
        ]
        units = {unit.key: unit for unit in pack}
        for key in trials:
            self.send(Fitting(key, len(pack), self.task.number))

        def on_step(key: str, step: int, steps: int, loss: float, speed: float) -> None:
            self.send(Step(key, step, steps, loss, speed))

        results = fit_adapters(
            first.base, specs, data, first.config.trainer, dispatch=self._dispatch(first), until=self.task.until,
            on_step=on_step, on_failure=lambda key, failure: self._failed(units[key], failure),
            should_stop=self.should_stop,
        )  # fmt: skip
        return [unit for unit in pack if self._finish(unit, trials[unit.key], results[unit.key])]

    def _finish(self, unit: Unit, trial: Trial, result: dict[str, Any] | TrainingFailed) -> bool:
        """Put a finished adapter into the store, evaluate a paused one; returns whether it is finished."""
        if isinstance(result, TrainingFailed):
            self._failed(unit, result)
        elif "paused" in result:
            self._evaluate(unit, trial, **result["paused"])
        else:
            return self.rank != 0 or self._store(unit, trial, result)
        return False

    def _store(self, unit: Unit, trial: Trial, result: dict[str, Any]) -> bool:
        try:
            facts = {**result, "config": asdict(trial.config), "eval_identity": self._evaluation(trial.config).identity}
            store.complete("adapter", unit.key, facts)
        except UserError as error:
            self._failed(unit, error)
            return False
        return True

    def _evaluate(self, unit: Unit, trial: Trial, step: int, val_loss: float) -> None:
        """Report the validation loss, and the CER if asked for, of an adapter at a rung."""
        rate = self._rate(unit, trial, step) if self.task.metric == "cer" and self.rank == 0 else None
        self.send(Paused(unit.key, step, val_loss, rate))

    def _rate(self, unit: Unit, trial: Trial, step: int) -> float:
        from kimi_audio_ft.training.checkpoint import checkpoint_of

        greedy = replace(trial.config.decoding, text_temperature=0.0, text_top_k=0, repeats=1)
        evaluation = self._evaluation(trial.config)
        folder = store.work_folder("adapter", unit.key)
        checkpoint = checkpoint_of([folder], step)
        assert checkpoint is not None, "a paused training has left one"
        adapter = (f"{unit.key}@{step}", folder / checkpoint)
        [transcripts] = decode_all(evaluation.base, evaluation, [DecodingRequest(greedy, 0)], adapter)
        return float(score(evaluation.references, transcripts.hypotheses[0])["cer"])

    def decode(self, units: Sequence[Unit]) -> None:
        """Decode every way that the jobs of these units ask for."""
        for done, unit in enumerate(units):
            if self.should_stop():
                return self._interrupt(units[done:], None)
            try:
                self._decode(unit)
            except Exception as error:
                self._failed(unit, error)
            else:
                self.send(Ready(unit.key))
        return None

    def _decode(self, unit: Unit) -> None:
        adapter = None if unit.key == BASE else (unit.key, store.product_path("adapter", unit.key))
        last = 0.0

        def on_progress(done: int, total: int) -> None:
            nonlocal last
            if done == total or time.monotonic() - last > _EVERY:
                last = time.monotonic()
                self.send(Decoding(unit.key, done, total))

        for jobs in grouped(unit.jobs, lambda job: canonical(asdict(job.data))):
            evaluation = self._evaluation(jobs[0])
            requests = [DecodingRequest(job.decoding, job.seed) for job in jobs]
            decode_all(evaluation.base, evaluation, requests, adapter, on_progress=on_progress)

    def _evaluation(self, config: Any) -> EvaluationSet:
        key = canonical(asdict(config.data))
        if key not in self._evaluations:
            trial = Trial(config)
            self._evaluations[key] = EvaluationSet(trial.base, config.data)
        return self._evaluations[key]

    def _trial(self, unit: Unit) -> Trial:
        config = replace(unit.config, trainer=replace(unit.config.trainer, progress=False))
        return Trial(config, self.rank)

    def _dispatch(self, trial: Trial) -> str:
        if self.task.dispatch != "auto":
            return self.task.dispatch
        return "batched" if trial.base.device.type == "cuda" else "slice"

    def _interrupt(self, units: Sequence[Unit], step: int | None) -> None:
        for unit in units:
            self.send(events.Interrupted(unit.key, step))

    def _failed(self, unit: Unit, error: Exception) -> None:
        if unit.key in self._failed_keys:  # told while it trained; now its pack has ended
            return
        self._failed_keys.add(unit.key)
        failure = Failure.of(error)
        log.error("%s failed: %s", unit.key, failure.traceback or failure.message)
        self.send(Failed(unit.key, failure))

    def _broken(self, pack: list[Unit], error: Exception) -> None:
        """After an error of a whole pack: one of the user's fails all units; any other is searched for in halves."""
        if self.task.ranks > 1 and not isinstance(error, UserError):
            raise error  # the other ranks do not know of it; the supervisor starts again with smaller packs
        try:
            raise_if_full(error, store_root())
        except UserError as full:
            error = full
        memory = out_of_memory(error)
        if len(pack) == 1 or isinstance(error, UserError):
            for unit in pack:
                self._failed(unit, too_large(unit.config, error) if memory else error)
            return
        log.error("a pack of %d broke: %s", len(pack), "".join(traceback.format_exception(error)))
        if memory:
            free_memory()
            self.pack_size = len(pack) // 2
        reason = "out of memory" if memory else f"{type(error).__name__}: {error}"
        self.send(Split([unit.key for unit in pack], reason))
        for half in even_chunks(pack, 2):
            self.decode(self._fit(half))


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is no memory left."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in _OUT_OF_MEMORY)


def free_memory() -> None:
    """Free the memory of a failed training."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def too_large(config: TrainConfig, error: BaseException) -> UserError:
    """The error of an adapter that does not fit into memory even by itself."""
    first = first_line(error, type(error).__name__)
    return UserError(
        f"lora.r={config.lora.r}: out of memory, training this adapter by itself ({first}). Lower "
        f"data.max_batch_tokens={config.data.max_batch_tokens} or data.batch_size={config.data.batch_size} (and raise "
        "trainer.accumulate), or set model.gradient_checkpointing=true"
    )
