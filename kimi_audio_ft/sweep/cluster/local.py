"""This machine as a cluster: tasks are child processes, each with devices of its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from kimi_audio_ft.runtime import devices, workers
from kimi_audio_ft.runtime.libraries import leave_out_bitsandbytes
from kimi_audio_ft.runtime.signals import StopRequest
from kimi_audio_ft.sweep.cluster import fork_server
from kimi_audio_ft.sweep.supervisor import JobEnd, NotNow
from kimi_audio_ft.sweep.task import INTERRUPTED, run_task


class LocalMachine:
    """Runs as many tasks at a time as there are slots.

    slots: environment variables of each, such as the GPUs that its processes see.
    """

    # Somebody may end a child by hand, which saves and is started again.
    max_restarts = 3

    def __init__(self, slots: Sequence[Mapping[str, str]]) -> None:
        self.slots = slots
        self.per_machine = len(slots)
        self._processes: dict[str, BaseProcess] = {}
        self._slot_of: dict[str, int] = {}
        self._context = _context()
        self._busy = self._context.RawValue("i", 0)

    def submit(self, task_file: Path, name: str) -> str:
        """Start the task's process. Raises NotNow."""
        slot = self._free_slot()
        environment = {**os.environ, **self.slots[slot]}
        nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        given = (task_file, environment, len(self.slots), self._busy, nohup)
        process = self._context.Process(target=_run, args=given)
        process.start()
        job = str(process.pid)
        self._processes[job], self._slot_of[job] = process, slot
        self._count_busy()
        return job

    def _count_busy(self) -> None:
        self._busy.value = sum(process.is_alive() for process in self._processes.values())

    def _free_slot(self) -> int:
        """A slot without a process: one that has made all its units may still hold its devices for a while."""
        used = {slot for job, slot in self._slot_of.items() if self._processes[job].is_alive()}
        free = [slot for slot in range(len(self.slots)) if slot not in used]
        if not free:
            raise NotNow("every slot has a process that is about to end")
        return free[0]

    def ended(self, jobs: Sequence[str]) -> dict[str, JobEnd]:
        """Ends of jobs by the exit codes of their processes."""
        self._count_busy()
        codes = {job: self._processes[job].exitcode for job in jobs}
        return {job: end_of(code) for job, code in codes.items() if code is not None}

    def stop(self, jobs: Sequence[str]) -> None:
        """SIGTERM: they save and end."""
        for job in jobs:
            self._processes[job].terminate()

    def close(self, jobs: Sequence[str]) -> None:
        """Kill what still runs, and wait for what is about to end."""
        for job in jobs:
            self._processes[job].kill()
        for process in self._processes.values():
            process.join()
        self._processes, self._slot_of = {}, {}


def end_of(code: int) -> JobEnd:
    """How a process ended that has left units unfinished."""
    if code == INTERRUPTED:
        return JobEnd("lost", "its process was stopped")
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return JobEnd("died", f"training or decoding it killed the process, which died ({how})")


def _context() -> Any:
    """How tasks are started: forked, where there is no GPU, from a process that has imported what they need.

    CUDA does not survive a fork, and a library may ask for the GPUs while it is imported, so that beside GPUs every
    task is a new process.
    """
    if not fork_server.may_fork() or torch.cuda.is_available():
        return multiprocessing.get_context(workers.START_METHOD)
    fork_server.start()
    return multiprocessing.get_context("forkserver")


def _run(task_file: Path, environment: Mapping[str, str], slots: int, busy: Any, nohup: bool) -> None:
    """busy: how many of the slots have a process now; those of the others leave it their cores.

    nohup: SIGHUP is ignored. A forked process has the signals of the one that it was forked from, which hears none.
    """
    leave_out_bitsandbytes()
    signal.signal(signal.SIGHUP, signal.SIG_IGN if nohup else signal.SIG_DFL)
    os.environ.update(environment)
    parent = multiprocessing.parent_process()
    assert parent is not None
    with StopRequest(also=[signal.SIGUSR2], is_gone=lambda: not parent.is_alive()) as stop:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})

        def should_stop() -> bool:
            """Asked after every step."""
            devices.use_idle_cores(slots // max(1, busy.value))
            return stop()

        sys.exit(run_task(task_file, should_stop))


def device_slots(gpus_per_pack: int, threads: int, parallel: int | None) -> list[dict[str, str]]:
    """Environment variables for every pack that this machine can train at the same time.

    Args:
        threads: CPU threads that a pack has been given (``trainer.threads``); 0: PyTorch takes all cores.
        parallel: how many packs; None: as many as its GPUs hold, or without GPUs as its cores hold.
    """
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = named.split(",") if named else [str(number) for number in range(torch.cuda.device_count())]
    gpus = gpus[: torch.cuda.device_count()]  # the driver knows which of those named are there
    if not torch.cuda.is_available() or len(gpus) < gpus_per_pack:
        cores = len(os.sched_getaffinity(0))
        return [{}] * (parallel or (max(1, cores // threads) if threads else 1))
    count = min(parallel or len(gpus), len(gpus) // gpus_per_pack)
    named_by_slot = [",".join(gpus[slot * gpus_per_pack : (slot + 1) * gpus_per_pack]) for slot in range(count)]
    # A LOCAL_RANK left from an earlier command would number the GPUs of the whole machine.
    return [{"CUDA_VISIBLE_DEVICES": names, "LOCAL_RANK": "0"} for names in named_by_slot]
