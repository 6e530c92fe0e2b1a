"""Worker processes of a GPU: as many as there is room for, and a message where one is killed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from kimi_audio_ft.data.batching import EpochSteps
from kimi_audio_ft.data.datamodule import ConversationData, ResumableLoader
from kimi_audio_ft.data.workers import SIDE_BY_SIDE, workers_for, workers_here
from kimi_audio_ft.errors import UserError
from kimi_audio_ft.sweep.cluster.slurm import share_memory

MB, GB = 10**6, 10**9


@pytest.mark.parametrize(
    ("cores", "ranks", "shared", "expected"),
    [
        (64, 1, None, (4, 4)),
        (64, 1, 64 * GB, (4, 4)),
        (16, 2, None, (2, 4)),
        (16, 8, None, (0, 0)),
        (3, 1, None, (0, 0)),
        (64, 1, 64 * MB, (1, 1)),  # a container's, and steps of 20 MB
        (64, 1, 320 * MB, (4, 1)),
        (64, 4, 320 * MB, (1, 1)),
        (64, 1, 10 * MB, (0, 0)),
    ],
)
def test_workers_are_limited_by_cores_ranks_and_shared_memory(
    cores: int, ranks: int, shared: int | None, expected: tuple[int, int]
) -> None:
    assert workers_for(1000, ranks, cores, shared) == expected


def test_packs_side_by_side_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    assert workers_here(1, ranks=1)[0] == 4
    monkeypatch.setenv(SIDE_BY_SIDE, "2")
    assert workers_here(1, ranks=1)[0] == 2 and workers_here(1, ranks=2)[0] == 1


def test_jobs_of_slurm_share_a_nodes_memory_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=320 * MB))
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    assert workers_here(1000, ranks=1) == (4, 1)
    os.environ["SLURM_CPUS_ON_NODE"] = "16"
    share_memory()
    assert workers_here(1000, ranks=1) == (1, 1)


def _die(samples: Any) -> None:
    os._exit(9)


def test_a_killed_worker_names_the_options_that_help(make_data: Callable[..., ConversationData]) -> None:
    data = make_data(features="none")
    loader = ResumableLoader(data.train_set, EpochSteps(data.plan, 0), collate_fn=_die, num_workers=1)
    with pytest.raises(UserError, match=r"data\.num_workers=0.*--shm-size"):
        list(loader)
