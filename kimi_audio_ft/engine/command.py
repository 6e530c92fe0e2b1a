"""Making one task in a process of its own, which a cluster may stop: events go to a file, signals are answered."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kimi_audio_ft.engine.event_files import EventWriter, Progress, events_path
from kimi_audio_ft.engine.place import Place
from kimi_audio_ft.engine.work import Event, Task, read_task
from kimi_audio_ft.errors import UserError

log = logging.getLogger("kimi_audio_ft.engine")

INTERRUPTED = os.EX_TEMPFAIL
"""Exit code of a task that was asked to stop: it has saved, and goes on when it is started again."""
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)
Supervise = Callable[[Task, Callable[[Event], None], Callable[[], bool]], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m kimi_audio_ft.engine TASK.json``; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m kimi_audio_ft.engine",
        description="Make one task of a sweep: train its adapters together and decode them, into the store. Events are "
        "appended to TASK.json.events.jsonl. SIGTERM, SIGUSR1, SIGUSR2 and Ctrl-C finish the step and save; exit code "
        f"0: all is made or has failed for good; {INTERRUPTED}: stopped, start it again to go on.",
    )
    parser.add_argument("task", type=Path, metavar="TASK.json", help="a task that an executor has written")
    parser.add_argument("--with-parent", action="store_true", help="stop and save when the starting process is gone")
    options = parser.parse_args(arguments)
    if not options.task.is_file():
        parser.error(f"{options.task}: no such file")
    logging.basicConfig(format="[%(asctime)s] %(message)s", level=logging.INFO)
    with heard(options.with_parent) as asked:
        return run_task(options.task.absolute(), asked)


@dataclass
class Asked:
    """Whether this process was asked to stop. parent: the process without which it is to stop; 0: none."""

    parent: int
    stop: bool = False

    def __call__(self) -> bool:
        return self.stop or (self.parent != 0 and os.getppid() != self.parent)


@contextmanager
def heard(with_parent: bool) -> Iterator[Asked]:
    """Signals that ask this process to stop."""
    asked = Asked(os.getppid() if with_parent else 0)

    def hear(number: int, frame: Any) -> None:
        asked.stop = True

    before = {number: signal.signal(number, hear) for number in SIGNALS}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_task(task_file: Path, should_stop: Callable[[], bool], supervise: Supervise | None = None) -> int:
    """Make a task; every unit has its last word in the events file when this returns.

    Args:
        supervise: makes the units; ``engine.supervise`` unless given.
    """
    write = EventWriter(events_path(task_file))
    task = None
    progress = Progress()

    def on_event(event: Event) -> None:
        progress.take(event)
        write(event)

    try:
        place = Place.read(task_file)
        if place is not None:
            place.enter()
        task = read_task(task_file)
        (supervise or _supervise)(task, on_event, should_stop)
    except Exception as error:
        keys = [unit.key for unit in task.units] if task is not None else unit_keys(task_file)
        _fail([key for key in keys if key not in progress.ended], error, on_event)
        log.exception("the task ended early", exc_info=None if isinstance(error, UserError) else error)
        return 1
    left = {unit.key for unit in task.units} - progress.ended
    return INTERRUPTED if left else 0


def _supervise(task: Task, on_event: Callable[[Event], None], should_stop: Callable[[], bool]) -> None:
    from kimi_audio_ft.engine.supervise import supervise
    from kimi_audio_ft.runtime.devices import num_ranks

    # How many processes train together is for the machine to say that has the GPUs.
    task = replace(task, ranks=num_ranks(task.units[0].config.trainer))
    supervise(task, on_event, should_stop)


def unit_keys(task_file: Path) -> list[str]:
    """Keys of a task's units, also when its configs cannot be read."""
    return [unit["key"] for unit in json.loads(task_file.read_text(encoding="utf-8"))["units"]]


def _fail(keys: Sequence[str], error: Exception, on_event: Callable[[Event], None]) -> None:
    user = isinstance(error, UserError)
    words = "" if user else "".join(traceback.format_exception(error))
    facts = {"error_type": type(error).__name__, "message": str(error), "user": user, "traceback": words}
    for key in keys:
        on_event({"event": "failed", "unit": key, **facts})
