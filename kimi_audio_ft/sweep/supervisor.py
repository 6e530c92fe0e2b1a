"""Tasks on this machine: run in child processes that may die, with locks, retries in smaller packs, a clean stop."""

from __future__ import annotations

import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace

import torch
from filelock import Timeout

from kimi_audio_ft import store
from kimi_audio_ft.errors import UserError
from kimi_audio_ft.outcomes import BASE, Failure
from kimi_audio_ft.runtime.workers import WorkerDied, run_workers
from kimi_audio_ft.sweep.events import Decoding, Event, Failed, Fitting, Interrupted, Ready, Split, UnitEvent, Waiting
from kimi_audio_ft.sweep.plan import Task, Unit, even_chunks
from kimi_audio_ft.sweep.worker import work

# Seconds between two looks at the events of all tasks, and at a lock that another process holds.
_EVENT_PATIENCE, _LOCK_PATIENCE = 0.2, 1.0


@dataclass
class LocalExecutor:
    """Runs as many tasks at once as there are slots.

    slots: environment variables of each, such as the GPUs that its processes see.
    """

    slots: list[dict[str, str]]

    def run(self, tasks: Sequence[Task], on_event: Callable[[Event], None], should_stop: Callable[[], bool]) -> None:
        """Run all tasks to their ends; ``on_event`` is called in this thread.

        The tasks are supervised by threads, so that this one, which gets the signals, always answers.
        """
        waiting: queue.SimpleQueue[Task] = queue.SimpleQueue()
        for task in tasks:
            waiting.put(task)
        events: queue.SimpleQueue[Event | BaseException | None] = queue.SimpleQueue()

        def serve(slot: dict[str, str]) -> None:
            try:
                with suppress(queue.Empty):
                    while True:
                        supervise(waiting.get_nowait(), events.put, should_stop, slot)
            except BaseException as error:  # raised in the waiting thread
                events.put(error)
            events.put(None)

        threads = [threading.Thread(target=serve, args=(slot,), daemon=True) for slot in self.slots[: len(tasks)]]
        for thread in threads:
            thread.start()
        left = len(threads)
        while left:
            try:
                event = events.get(timeout=_EVENT_PATIENCE)
            except queue.Empty:
                continue
            if isinstance(event, BaseException):
                raise event
            if event is None:
                left -= 1
            else:
                on_event(event)


def device_slots(gpus_per_pack: int, threads: int, parallel: int | None) -> list[dict[str, str]]:
    """Environment variables for every pack that this machine can train at the same time.

    Args:
        threads: CPU threads that a pack has been given (``trainer.threads``); 0: PyTorch takes all cores.
        parallel: how many packs; None: as many as its GPUs hold, or without GPUs as its cores hold.
    """
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = named.split(",") if named else [str(number) for number in range(torch.cuda.device_count())]
    if not torch.cuda.is_available() or len(gpus) < gpus_per_pack:
        cores = len(os.sched_getaffinity(0))
        return [{}] * (parallel or (max(1, cores // threads) if threads else 1))
    count = min(parallel or len(gpus), len(gpus) // gpus_per_pack)
    return [
        {"CUDA_VISIBLE_DEVICES": ",".join(gpus[slot * gpus_per_pack : (slot + 1) * gpus_per_pack])}
        for slot in range(count)
    ]


def supervise(
    task: Task,
    on_event: Callable[[Event], None],
    should_stop: Callable[[], bool] = lambda: False,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Make all units of a task; the fate of each is an event, never an exception.

    Adapters that another process is making are left to it, and waited for at the end. When a child dies (a signal, out
    of memory, an exit in somebody's code), the units that it was working on are tried again in halves, until the one
    that kills its process is alone and fails. Once ``should_stop()`` is true, the child saves its checkpoints and the
    remaining units are interrupted.

    Args:
        environment: variables for the children, such as the GPUs that they may use.
    """
    _Supervisor(task, on_event, should_stop, environment).run()


@dataclass
class _Supervisor:
    task: Task
    on_event: Callable[[Event], None]
    should_stop: Callable[[], bool]
    environment: Mapping[str, str] | None
    locks: dict[str, ExitStack] = field(default_factory=dict)
    fitting: set[str] = field(default_factory=set)  # units that were not in the store when their turn came

    def run(self) -> None:
        try:
            mine, others = self._claim(self.task.units)
            self._make(mine)
            for unit in others:
                self.on_event(Waiting(unit.key))
            for unit in others:
                if self._wait(unit):
                    self._make([unit])
        finally:
            for lock in self.locks.values():
                lock.close()

    def _claim(self, units: Sequence[Unit]) -> tuple[list[Unit], list[Unit]]:
        """Units whose locks are ours or that need none, and those that another process is making."""
        mine: list[Unit] = []
        others: list[Unit] = []
        for unit in units:
            try:
                free = unit.key in self.locks or not self._untrained(unit) or self._lock(unit.key, 0)
            except UserError as error:  # a store that cannot be written; what it has can be used
                self._pass_on(Failed(unit.key, Failure.of(error)))
            else:
                (mine if free else others).append(unit)
        return mine, others

    def _lock(self, key: str, patience: float) -> bool:
        stack = ExitStack()
        try:
            stack.enter_context(store.lock("adapter", key, patience))
        except Timeout:
            return False
        self.locks[key] = stack
        return True

    def _wait(self, unit: Unit) -> bool:
        """Wait until another process has made it or given it up."""
        while self._untrained(unit) and not self._lock(unit.key, _LOCK_PATIENCE):
            if self.should_stop():
                self.on_event(Interrupted(unit.key))
                return False
        return True

    def _untrained(self, unit: Unit) -> bool:
        return unit.key != BASE and store.find("adapter", unit.key) is None

    def _make(self, units: Sequence[Unit]) -> None:
        waiting = deque([list(units)] if units else [])
        while waiting:
            some = waiting.popleft()
            child = _Child(self.task.with_units(some), self._pass_on, self.environment, self.should_stop)
            untrained = [unit.key for unit in some if self._untrained(unit)]
            self.fitting |= set(untrained)
            death = child.run(untrained)
            left = [unit for unit in some if unit.key not in child.ended]
            waiting.extendleft(reversed(self._after(death, left, child.begun)))

    def _after(self, death: Exception | None, left: list[Unit], begun: set[str]) -> list[list[Unit]]:
        """Groups of units to try again when a child has ended with units left."""
        if self.should_stop():
            for unit in left:
                self._pass_on(Interrupted(unit.key))
            return []
        if isinstance(death, UserError):
            for unit in left:
                self._pass_on(Failed(unit.key, Failure.of(death)))
            return []
        suspects = [unit for unit in left if unit.key in begun] or left
        rest = [unit for unit in left if unit not in suspects]
        death = death or WorkerDied("its process ended without an error message")
        if len(suspects) > 1:
            self._pass_on(Split([unit.key for unit in suspects], str(death)))
        elif suspects:
            where = f". Its output is in {self.task.log}" if self.task.log else ""
            said = f"training or decoding it killed the process: {death}{where}"
            self._pass_on(Failed(suspects[0].key, Failure(type(death).__name__, said, user=False)))
            suspects = []
        return [group for group in (*even_chunks(suspects, 2), rest) if group]

    def _pass_on(self, event: Event) -> None:
        if isinstance(event, UnitEvent) and event.ends and event.unit in self.locks:
            self.locks.pop(event.unit).close()
        if isinstance(event, Ready):
            event = replace(event, fitted=event.unit in self.fitting)
        self.on_event(event)


class _Child:
    """One process of a task. begun, ended: keys of the units that it works on, and of those that it has ended."""

    def __init__(
        self,
        task: Task,
        on_event: Callable[[Event], None],
        environment: Mapping[str, str] | None,
        should_stop: Callable[[], bool],
    ) -> None:
        self.task, self.on_event, self.environment, self.should_stop = task, on_event, environment, should_stop
        self.begun: set[str] = set()
        self.ended: set[str] = set()

    def run(self, untrained: list[str]) -> Exception | None:
        """Make the task's units; returns the error that ended the process, or None."""
        try:
            if self.task.ranks > 1 and untrained:
                self._start(self.task.ranks, untrained, False)
                # Decoding uses one device; what has just been trained is in the store now.
                left = [unit for unit in self.task.units if unit.key not in self.ended]
                trained = [unit for unit in left if unit.key == BASE or store.find("adapter", unit.key)]
                self.begun.clear()
                self._start(1, [], True, self.task.with_units(trained))
            else:
                self._start(1, untrained, True)
        except (WorkerDied, UserError) as death:
            return death
        return None

    def _start(self, count: int, untrained: list[str], decoding: bool, task: Task | None = None) -> None:
        task = task or self.task
        if task.units:
            run_workers(
                work, (task, untrained, decoding), count, self._receive, environment=self.environment,
                should_stop=self.should_stop,
            )  # fmt: skip

    def _receive(self, rank: int, event: Event) -> None:
        if isinstance(event, Fitting | Decoding):
            self.begun.add(event.unit)
        elif isinstance(event, UnitEvent) and event.ends:
            self.ended.add(event.unit)
            self.begun.discard(event.unit)
        self.on_event(event)
