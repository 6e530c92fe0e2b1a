from __future__ import annotations

import os
import signal
from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kimi_audio_ft.runtime.signals import Interrupted, leave_if_asked
from kimi_audio_ft.sweep.cluster import local
from kimi_audio_ft.sweep.cluster.local import LocalMachine, device_slots
from kimi_audio_ft.sweep.supervisor import NotNow


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of eight cores without a GPU."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of eight GPUs, of which this process may use six."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3,4,5,6,7")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 6)


@pytest.mark.usefixtures("cores")
def test_packs_that_were_given_threads_share_the_cores() -> None:
    assert len(device_slots(1, threads=0, parallel=None)) == 1
    assert len(device_slots(1, threads=1, parallel=None)) == 8
    assert len(device_slots(1, threads=3, parallel=None)) == 2
    assert len(device_slots(1, threads=16, parallel=None)) == 1
    assert len(device_slots(1, threads=1, parallel=3)) == 3


@pytest.mark.usefixtures("gpus")
def test_packs_share_the_gpus_that_this_process_may_use() -> None:
    seen = [slot["CUDA_VISIBLE_DEVICES"] for slot in device_slots(2, threads=0, parallel=None)]
    assert seen == ["2,3", "4,5", "6,7"]
    assert len(device_slots(1, threads=0, parallel=4)) == 4
    assert device_slots(8, threads=0, parallel=None) == [{}]  # more than there are: the training says so


@pytest.mark.usefixtures("gpus")
def test_gpus_that_are_named_but_not_there_are_no_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    seen = [slot["CUDA_VISIBLE_DEVICES"] for slot in device_slots(1, threads=0, parallel=None)]
    assert seen == ["2", "3"]


class Process:
    """A task's process that ends when the test says so."""

    numbers = count(1)

    def __init__(self, target: Any, args: tuple[Any, ...]) -> None:
        self.environment, self.alive = args[1], True

    def start(self) -> None:
        self.pid = next(self.numbers)

    def is_alive(self) -> bool:
        return self.alive


def test_a_slot_is_free_when_its_last_process_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    context = SimpleNamespace(RawValue=lambda kind, value: SimpleNamespace(value=value), Process=Process)
    monkeypatch.setattr(local, "_context", lambda: context)
    machine = LocalMachine([{"SLOT": "0"}, {"SLOT": "1"}])

    def submit() -> Process:
        process: Any = machine._processes[machine.submit(Path("task.json"), "task")]
        return process

    first, second = submit(), submit()
    first.alive = False
    third = submit()
    assert [process.environment["SLOT"] for process in (first, second, third)] == ["0", "1", "0"]
    with pytest.raises(NotNow):  # the first process of slot 0 is long dead, its second is not
        submit()
    third.alive = False
    assert submit().environment["SLOT"] == "0"


def test_all_that_a_task_does_hears_that_its_sweep_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Encoding too, which is not given the task's question whether to stop."""
    alive = [True]

    def run_task(file: Path, should_stop: Callable[[], bool]) -> int:
        leave_if_asked()
        assert not should_stop()
        alive.clear()
        with pytest.raises(Interrupted):
            leave_if_asked()
        return 3 if should_stop() else 0

    monkeypatch.setattr(local, "run_task", run_task)
    monkeypatch.setattr(local, "leave_out_bitsandbytes", lambda: None)
    monkeypatch.setattr(local.devices, "use_idle_cores", lambda times: None)
    sweep = SimpleNamespace(is_alive=lambda: bool(alive))
    monkeypatch.setattr(local.multiprocessing, "parent_process", lambda: sweep)
    before = signal.getsignal(signal.SIGHUP)
    try:
        with pytest.raises(SystemExit, match="3"):
            local._run(Path(), {}, 1, SimpleNamespace(value=1), nohup=False)
    finally:
        signal.signal(signal.SIGHUP, before)
