"""Tasks on this machine: one after another, or side by side on its GPUs."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from kimi_audio_ft.engine.supervise import supervise
from kimi_audio_ft.engine.work import Event, Task

# Seconds between two looks at the events of all tasks.
_PATIENCE = 0.2


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
                event = events.get(timeout=_PATIENCE)
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
