"""A task's process: trains its adapters in packs over one base, then decodes all that their jobs ask for.

It holds the locks of what it makes. A process that only decodes does without Lightning, which takes a second or two to
import.
"""

from __future__ import annotations

import logging
import shutil
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from filelock import Timeout

from kimi_audio_ft import store
from kimi_audio_ft.config.train import VLLM, TrainConfig
from kimi_audio_ft.decoding.kept import vllm_kept
from kimi_audio_ft.decoding.request import DecodingRequest
from kimi_audio_ft.decoding.transcripts import decode_all
from kimi_audio_ft.errors import ChangedError, UserError
from kimi_audio_ft.files import raise_if_full
from kimi_audio_ft.inputs import Inputs
from kimi_audio_ft.outcomes import BASE, Failure
from kimi_audio_ft.paths import store_root
from kimi_audio_ft.runtime.devices import num_ranks, out_of_memory
from kimi_audio_ft.runtime.libraries import quiet_libraries
from kimi_audio_ft.runtime.signals import Interrupted
from kimi_audio_ft.scoring import read_options
from kimi_audio_ft.scoring.ranking import rate_of_texts
from kimi_audio_ft.store.signature import canonical
from kimi_audio_ft.sweep import events
from kimi_audio_ft.sweep.events import Decoding, Event, Failed, Fitting, Paused, Ready, Split, Waiting
from kimi_audio_ft.sweep.packs import dispatch_of, quiet_trial, require_planned, train_pack
from kimi_audio_ft.sweep.plan import Task, Unit, grouped, pack_units
from kimi_audio_ft.text import first_line
from kimi_audio_ft.training.ending import TrainingFailed
from kimi_audio_ft.trial import Trial

log = logging.getLogger(__name__)

# Seconds between two messages about a decoding's progress, and between two looks at another process's lock.
_EVERY, _LOCK_PATIENCE = 0.5, 1.0


class _Leave(BaseException):
    """Ends the task's process: its devices and memory may be in any state."""


def make_units(task: Task, on_event: Callable[[Event], None], should_stop: Callable[[], bool]) -> None:
    """Make a task's units; the fate of each is an event.

    When a pack breaks in a way that is no user's error, this returns early after a ``Split`` event: what is left is
    for new processes.
    """
    quiet_libraries()
    worker = Worker(task, on_event, should_stop)
    try:
        worker.run()
    except _Leave:
        pass
    finally:
        worker.let_go([unit.key for unit in task.units])


class Worker:
    """Makes a task's units in this process; under several ranks each training has processes of its own."""

    def __init__(self, task: Task, on_event: Callable[[Event], None], should_stop: Callable[[], bool]) -> None:
        self.task, self.on_event, self.should_stop = task, on_event, should_stop
        self.ended: set[str] = set()
        self._locks: dict[str, ExitStack] = {}
        self._fitting: set[str] = set()
        self._inputs = Inputs()
        self._by_vllm: list[Unit] = []

    def run(self) -> None:
        """Make the units, those last that other processes are making now."""
        mine, others = self._claim(self.task.units)
        self._make(mine)
        for unit in others:
            self.send(Waiting(unit.key))
        for unit in others:
            if self._wait(unit):
                self._make([unit])

    def send(self, event: Event) -> None:
        """Pass an event on; a unit that has ended needs its lock no longer, unless its pack still trains."""
        if isinstance(event, events.UnitEvent) and event.ends:
            self.ended.add(event.unit)
            self.let_go({event.unit} - self._fitting)
        self.on_event(event)

    # Locks: an adapter is trained by the process that holds its lock.

    def _claim(self, units: Sequence[Unit]) -> tuple[list[Unit], list[Unit]]:
        """Units whose locks are ours or that need none, and those that another process is making."""
        mine: list[Unit] = []
        others: list[Unit] = []
        for unit in units:
            try:
                free = not is_untrained(unit) or self._lock(unit.key, 0)
            except UserError as error:  # a store that cannot be written; what it has can be used
                self.send(Failed(unit.key, Failure.of(error)))
            else:
                (mine if free else others).append(unit)
        return mine, others

    def _lock(self, key: str, patience: float) -> bool:
        stack = ExitStack()
        try:
            stack.enter_context(store.lock("adapter", key, patience))
        except Timeout:
            return False
        self._locks[key] = stack
        return True

    def let_go(self, keys: Iterable[str]) -> None:
        """Release the locks of units."""
        for key in keys:
            if key in self._locks:
                self._locks.pop(key).close()

    def _wait(self, unit: Unit) -> bool:
        """Wait until another process has made it or given it up."""
        while is_untrained(unit) and not self._lock(unit.key, _LOCK_PATIENCE):
            if self.should_stop():
                self.send(events.Interrupted(unit.key))
                return False
        return True

    # Packs.

    def _make(self, units: Sequence[Unit]) -> None:
        """Decode what needs no training, then train pack by pack, decoding each pack's units at once.

        What vLLM decodes comes last and all together: starting it takes half a minute, and the GPU.
        """
        untrained = [unit for unit in units if is_untrained(unit)]
        self.decode([unit for unit in units if unit not in untrained])
        for pack in pack_units(untrained, self.task.same_data):
            try:
                for part in self._in_step(pack):
                    self._packs(part)
            except Interrupted:  # recordings were being encoded, to plan the packs
                self._interrupt(self._open(pack), None)
            except Exception as error:  # of the data, of their encoders, or of the probe
                self._broken(self._open(pack), error)
        later, self._by_vllm = self._by_vllm, []
        with vllm_kept(max((unit.config.lora.r for unit in later), default=0)):
            self._decode_all(later)

    def _in_step(self, units: list[Unit]) -> list[list[Unit]]:
        """Units whose epochs have equally many optimizer steps: with other seeds, batches are cut elsewhere."""
        if len({unit.config.seed for unit in units}) == 1:
            return [units]

        def steps(unit: Unit) -> tuple[int, ...]:
            data = quiet_trial(unit, self._inputs).data
            data.setup()
            return data.steps_by_epoch(unit.config.trainer.max_epochs)

        return grouped(units, steps)

    def _packs(self, units: list[Unit]) -> None:
        """Train units that can share a pack, in packs of the fastest size."""
        left, size = list(units), 0
        while left:
            if self.should_stop():
                return self._interrupt(left, None)
            size = size or self._size(left)
            for pack in self._resumable(left[:size]):
                self.decode(self._fit(pack))
            left = left[size:]
        return None

    def _size(self, units: list[Unit]) -> int:
        """Adapters in a pack of these units: the task's number, or the fastest one for their batches."""
        if self.task.pack_size or len(units) == 1:
            return self.task.pack_size or 1
        from kimi_audio_ft.sweep.pack_size import probed_pack_size

        trials = [quiet_trial(unit, self._inputs) for unit in units]
        return probed_pack_size(trials, dispatch_of(self.task, trials[0]), num_ranks(units[0].config.trainer))

    def _resumable(self, units: list[Unit]) -> list[list[Unit]]:
        """Parts of a pack that can resume from the same step."""
        from kimi_audio_ft.training.checkpoint import group_by_resume

        by_key = {unit.key: unit for unit in units}
        groups = group_by_resume({key: store.work_folder("adapter", key) for key in by_key})
        return [[by_key[key] for key in group] for group in groups]

    def _fit(self, pack: list[Unit]) -> list[Unit]:
        """Train one pack; returns the units whose adapters are in the store now."""
        self._fitting = {unit.key for unit in pack}
        try:
            for unit in pack:
                store.begin("adapter", unit.key)
                self.send(Fitting(unit.key, len(pack), self.task.number))
            results = train_pack(self.task.with_units(pack), self._inputs, self.send, self.should_stop)
            return [unit for unit in self._as_planned(pack) if self._finish(unit, results[unit.key])]
        except Interrupted as stop:
            self._interrupt(self._as_planned(self._open(pack)), stop.step or None)  # 0: before the first step
        except Exception as error:
            self._broken(self._open(pack), error)
        finally:
            for unit in pack:
                store.discard("adapter", unit.key)
            self._fitting = set()
            self.let_go(unit.key for unit in pack if unit.key in self.ended)
        return []

    def _as_planned(self, units: Sequence[Unit]) -> list[Unit]:
        """Units whose files are still those that were planned; of the others nobody knows what they were trained on."""
        now, found = Inputs(), []
        for unit in units:
            try:
                require_planned([unit], self._inputs, now)
            except ChangedError as error:
                shutil.rmtree(store.work_folder("adapter", unit.key), ignore_errors=True)
                self._failed(unit, error)
            else:
                found.append(unit)
        return found

    def _finish(self, unit: Unit, result: dict[str, Any] | TrainingFailed) -> bool:
        """Put a finished adapter into the store, evaluate a paused one; returns whether it is finished."""
        if isinstance(result, TrainingFailed):
            self._failed(unit, result)
        elif "paused" in result:
            self._evaluate(unit, **result["paused"])
        else:
            return self._store(unit, result)
        return False

    def _store(self, unit: Unit, result: dict[str, Any]) -> bool:
        try:
            facts = Trial(unit.config, inputs=self._inputs).adapter_facts(result)
            store.complete("adapter", unit.key, facts)
        except UserError as error:
            self._failed(unit, error)
            return False
        return True

    def _evaluate(self, unit: Unit, step: int, val_loss: float) -> None:
        """Report the validation loss, and the rate that ranks if asked for, of an adapter at a rung."""
        rate = self._rate(unit, step) if self.task.metric == "cer" else None
        self.send(Paused(unit.key, step, val_loss, rate))

    def _rate(self, unit: Unit, step: int) -> float:
        from kimi_audio_ft.training.checkpoint import checkpoint_of

        evaluation = self._inputs.evaluation(unit.config)
        folder = store.work_folder("adapter", unit.key)
        checkpoint = checkpoint_of([folder], step)
        assert checkpoint is not None, "a paused training has left one"
        adapter = (f"{unit.key}@{step}", folder / checkpoint)
        request, trainer = DecodingRequest.greedy(unit.config.decoding), unit.config.trainer
        try:
            [transcripts] = decode_all(evaluation, [request], adapter, should_stop=self.should_stop, trainer=trainer)
        except Interrupted:
            raise Interrupted(step) from None  # its training's, not the decoding's
        scoring = unit.config.scoring
        return rate_of_texts(evaluation.references, transcripts.hypotheses[0], scoring.rank_by, read_options(scoring))

    # Decoding.

    def decode(self, units: Sequence[Unit]) -> None:
        """Decode every way that the jobs of these units ask for; later, if one is by vLLM."""
        later = [unit for unit in units if any(job.decoding.engine == VLLM for job in unit.jobs)]
        self._by_vllm += later
        self._decode_all([unit for unit in units if unit not in later])

    def _decode_all(self, units: Sequence[Unit]) -> None:
        for done, unit in enumerate(units):
            if self.should_stop():
                return self._interrupt(units[done:], None)
            try:
                self._decode(unit)
            except Interrupted:
                return self._interrupt(units[done:], None)
            except UserError as error:
                self._failed(unit, error)
            except Exception as error:
                self._failed(unit, error)
                self._leave([], error)
            else:
                self.send(Ready(unit.key))
        return None

    def _decode(self, unit: Unit) -> None:
        folder = Path(unit.adapter) if unit.adapter else store.product_path("adapter", unit.key)
        adapter = None if unit.key == BASE else (unit.key, folder)
        last = 0.0

        def on_progress(done: int, total: int) -> None:
            nonlocal last
            if done == total or time.monotonic() - last > _EVERY:
                last = time.monotonic()
                self.send(Decoding(unit.key, done, total))

        for jobs in grouped(unit.jobs, lambda job: canonical(asdict(job.data))):
            evaluation = self._inputs.evaluation(jobs[0])
            if evaluation.identity != (unit.planned_evaluation(jobs[0]) or evaluation.identity):
                raise ChangedError(evaluation.conversations.called, "while the sweep ran")
            requests = [DecodingRequest(job.decoding, job.seed) for job in jobs]
            trainer = jobs[0].trainer
            decode_all(evaluation, requests, adapter, False, on_progress, self.should_stop, trainer)

    # What goes wrong.

    def _interrupt(self, units: Sequence[Unit], step: int | None) -> None:
        for unit in units:
            self.send(events.Interrupted(unit.key, step))

    def _open(self, pack: Sequence[Unit]) -> list[Unit]:
        return [unit for unit in pack if unit.key not in self.ended]

    def _failed(self, unit: Unit, error: Exception) -> None:
        if unit.key in self.ended:  # told while it trained; now its pack has ended
            return
        failure = Failure.of(error)
        log.error("%s failed: %s", unit.key, failure.traceback or failure.message)
        self.send(Failed(unit.key, failure))

    def _broken(self, pack: list[Unit], error: Exception) -> None:
        """After an error of a whole pack: one of the user's fails all units; any other is searched for in halves."""
        try:
            raise_if_full(error, store_root())
        except UserError as full:
            error = full
        memory = out_of_memory(error)
        if isinstance(error, UserError):
            for unit in pack:
                self._failed(unit, error)
            return
        log.error("a pack of %d broke: %s", len(pack), "".join(traceback.format_exception(error)))
        if len(pack) == 1:
            self._failed(pack[0], too_large(pack[0].config, error) if memory else error)
            pack = []
        self._leave(pack, error)

    def _leave(self, units: Sequence[Unit], error: Exception) -> NoReturn:
        """Leave the process after an error that no user can mend; new ones try these units in smaller packs."""
        reason = f"{type(error).__name__}: {first_line(error, '')}"
        self.send(Split([unit.key for unit in units], reason, out_of_memory(error)))
        raise _Leave


def is_untrained(unit: Unit) -> bool:
    """Whether a unit's adapter is to be trained."""
    return unit.key != BASE and unit.adapter is None and store.find("adapter", unit.key) is None


def too_large(config: TrainConfig, error: BaseException) -> UserError:
    """The error of an adapter that does not fit into memory even by itself."""
    first = first_line(error, type(error).__name__)
    return UserError(
        f"lora.r={config.lora.r}: out of memory, training this adapter by itself ({first}). Lower "
        f"data.max_batch_tokens={config.data.max_batch_tokens} or data.batch_size={config.data.batch_size} (and raise "
        "trainer.accumulate), or set model.gradient_checkpointing=true"
    )
