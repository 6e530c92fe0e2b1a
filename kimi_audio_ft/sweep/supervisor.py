"""Making a task's units in child processes that may die: locks, second tries in smaller packs, a clean stop."""

from __future__ import annotations

import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

from filelock import Timeout

from kimi_audio_ft import store
from kimi_audio_ft.errors import UserError
from kimi_audio_ft.outcomes import BASE
from kimi_audio_ft.runtime.workers import WorkerDied, run_workers
from kimi_audio_ft.sweep.plan import Event, Task, Unit, even_chunks
from kimi_audio_ft.sweep.worker import work

_ENDS = ("ready", "paused", "failed", "interrupted")
# Seconds between two looks at a lock that another process holds.
_PATIENCE = 1.0


def supervise(
    task: Task,
    on_event: Callable[[Event], None],
    should_stop: Callable[[], bool] = lambda: False,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Make all units of a task; what becomes of each is an event, never an exception.

    Adapters that another process is making are left to it, and waited for at the end. A child that dies (a signal, out
    of memory, an exit in somebody's code) costs the units that it was at: they are tried again in halves until the one
    that kills its process is alone and fails. Once ``should_stop()`` is true, the child saves its checkpoints and what
    is left is interrupted.

    Args:
        environment: variables for the children, such as the GPUs that they may use.
    """
    supervisor = _Supervisor(task, on_event, should_stop, environment)
    supervisor.run()


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
                self.on_event({"event": "waiting", "unit": unit.key})
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
                self._fail(unit, error, str(error))
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
        while self._untrained(unit) and not self._lock(unit.key, _PATIENCE):
            if self.should_stop():
                self.on_event({"event": "interrupted", "unit": unit.key, "step": None})
                return False
        return True

    def _untrained(self, unit: Unit) -> bool:
        return unit.key != BASE and store.find("adapter", unit.key) is None

    def _make(self, units: Sequence[Unit]) -> None:
        queue = deque([list(units)] if units else [])
        while queue:
            some = queue.popleft()
            child = _Child(self.task.with_units(some), self._pass_on, self.environment, self.should_stop)
            untrained = [unit.key for unit in some if self._untrained(unit)]
            self.fitting |= set(untrained)
            death = child.run(untrained)
            left = [unit for unit in some if unit.key not in child.ended]
            queue.extendleft(reversed(self._after(death, left, child.begun)))

    def _after(self, death: Exception | None, left: list[Unit], begun: set[str]) -> list[list[Unit]]:
        """What is to be tried again when a child has ended with units left, in groups."""
        if self.should_stop():
            for unit in left:
                self._pass_on({"event": "interrupted", "unit": unit.key, "step": None})
            return []
        if isinstance(death, UserError):
            for unit in left:
                self._fail(unit, death, str(death))
            return []
        suspects = [unit for unit in left if unit.key in begun] or left
        rest = [unit for unit in left if unit not in suspects]
        death = death or WorkerDied("its process ended without a word")
        if len(suspects) > 1:
            keys = [unit.key for unit in suspects]
            self._pass_on({"event": "split", "unit": None, "units": keys, "reason": str(death)})
        elif suspects:
            where = f". What it printed is in {self.task.log}" if self.task.log else ""
            self._fail(suspects[0], death, f"training or decoding it killed the process: {death}{where}")
            suspects = []
        return [group for group in (*even_chunks(suspects, 2), rest) if group]

    def _fail(self, unit: Unit, error: Exception, message: str) -> None:
        user = isinstance(error, UserError)
        facts = {"error_type": type(error).__name__, "message": message, "user": user, "traceback": ""}
        self._pass_on({"event": "failed", "unit": unit.key, **facts})

    def _pass_on(self, event: Event) -> None:
        if event["event"] in _ENDS and event["unit"] in self.locks:
            self.locks.pop(event["unit"]).close()
        if event["event"] == "ready":
            event = {**event, "fitted": event["unit"] in self.fitting}
        self.on_event(event)


class _Child:
    """One life of a task's process. begun, ended: keys of units that it was at, and has done with."""

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
        """Make the task's units. Returns what ended the process, or None."""
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
                work, (task, untrained, decoding), count, self._hear, environment=self.environment,
                should_stop=self.should_stop,
            )  # fmt: skip

    def _hear(self, rank: int, event: Any) -> None:
        key = event["unit"]
        if event["event"] in _ENDS:
            self.ended.add(key)
            self.begun.discard(key)
        elif event["event"] in ("fitting", "decoding"):
            self.begun.add(key)
        self.on_event(event)


# --- Tasks on this machine: one after another, or side by side on its GPUs.

# Seconds between two looks at the events of all tasks.
_EVENT_PATIENCE = 0.2


@dataclass
class LocalExecutor:
    """Runs as many tasks at once as there are places.

    places: the environment of each, such as the GPUs that its processes see.
    """

    places: list[dict[str, str]]

    def run(self, tasks: Sequence[Task], on_event: Callable[[Event], None], should_stop: Callable[[], bool]) -> None:
        """Run all tasks to their ends; ``on_event`` is called in this thread.

        The tasks are supervised by threads, so that this one, which gets the signals, always answers.
        """
        waiting: queue.SimpleQueue[Task] = queue.SimpleQueue()
        for task in tasks:
            waiting.put(task)
        events: queue.SimpleQueue[Event | BaseException | None] = queue.SimpleQueue()

        def serve(place: dict[str, str]) -> None:
            try:
                with suppress(queue.Empty):
                    while True:
                        supervise(waiting.get_nowait(), events.put, should_stop, place)
            except BaseException as error:  # to the thread that waits for it
                events.put(error)
            events.put(None)

        threads = [threading.Thread(target=serve, args=(place,), daemon=True) for place in self.places[: len(tasks)]]
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


def places_here(gpus_per_pack: int, threads: int, parallel: int | None) -> list[dict[str, str]]:
    """An environment for every pack that this machine can train at the same time.

    Args:
        threads: CPU threads that a pack has been given (``trainer.threads``); 0: PyTorch takes all cores.
        parallel: how many packs; None: as many as its GPUs hold, or without GPUs as its cores hold.
    """
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = named.split(",") if named else [str(number) for number in range(torch.cuda.device_count())]
    if not torch.cuda.is_available() or len(gpus) < gpus_per_pack:
        cores = len(os.sched_getaffinity(0))
        return [{}] * (parallel or (max(1, cores // threads) if threads else 1))
    count = min(parallel or len(gpus), len(gpus) // gpus_per_pack)
    return [
        {"CUDA_VISIBLE_DEVICES": ",".join(gpus[place * gpus_per_pack : (place + 1) * gpus_per_pack])}
        for place in range(count)
    ]
