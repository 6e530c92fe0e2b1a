"""How a task's process begins: its signals, threads and log."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

from kimi_audio_ft.engine.work import Task
from kimi_audio_ft.runtime.workers import Send


class Asked:
    """Whether somebody has asked this process to stop: SIGTERM, or a signal of a cluster that takes its node back.

    Ctrl-C reaches every process of a terminal's group; the supervisor alone answers it, with one SIGTERM. When the
    supervisor dies, its locks are gone, so this process must be too: SIGINT, which PyTorch asks the kernel to send
    then, would not be heard.
    """

    def __init__(self) -> None:
        from torch.multiprocessing import _prctl_pr_set_pdeathsig  # type: ignore[attr-defined]  # made in C

        self.stop = False
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, self._hear)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _prctl_pr_set_pdeathsig(signal.SIGKILL)

    def _hear(self, number: int, frame: Any) -> None:
        self.stop = True


def work(rank: int, send: Send, task: Task, untrained: Sequence[str], decoding: bool) -> None:
    """Make a task's units, as one of ``task.ranks`` processes that train together; every event is sent on.

    Args:
        untrained: keys of the units that are to be trained; the sender holds their locks.
        decoding: whether this process also decodes.
    """
    asked = Asked()
    _set_up(rank, task)
    from kimi_audio_ft.engine.worker import Worker  # after the log is in place, which takes what imports print

    Worker(rank, send, task, lambda: asked.stop).run(set(untrained), decoding)


def _set_up(rank: int, task: Task) -> None:
    from kimi_audio_ft.runtime.devices import limit_threads
    from kimi_audio_ft.runtime.libraries import quiet_libraries

    if task.log is not None:
        target = os.open(task.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(target, stream.fileno())
    threads = task.units[0].config.trainer.threads
    # Busy threads of several processes on the same cores crawl.
    limit_threads(threads or (max(1, (os.cpu_count() or 1) // task.ranks) if task.ranks > 1 else 0))
    quiet_libraries()
    level = logging.INFO if rank == 0 else logging.CRITICAL  # what all ranks meet is said once
    logging.basicConfig(format="[%(asctime)s] %(message)s", level=level, force=True)
