from __future__ import annotations

import os

import pytest
import torch

from kimi_audio_ft.sweep.cluster.local import device_slots


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
