"""Processes that share work: everyone gets its part, everyone is heard, and nobody waits for the dead."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import pytest
import torch.distributed as dist

from kimi_audio_ft.errors import UserError
from kimi_audio_ft.runtime.team import Team, joined_team, started_by_launcher

pytestmark = pytest.mark.slow
SIZE = 3


def keep_store(port: Connection) -> None:
    """The processes' store, as torchrun keeps it; until its process is ended."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    port.send(store.port)
    port.recv()


def start_team(task: Callable[[Team], None], size: int = SIZE) -> list[int | None]:
    """Run a task in forked processes that find each other as torchrun's do; returns their exit codes."""
    forked = multiprocessing.get_context("fork")
    ours, its = forked.Pipe()
    # Not in this process: one that is forked while the store's thread looks up a name would find the lookup locked.
    store = forked.Process(target=keep_store, args=(its,))
    store.start()
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(ours.recv()), "WORLD_SIZE": str(size)}

    def run(rank: int) -> None:
        os.environ |= {**group, "TORCHELASTIC_USE_AGENT_STORE": "True", "RANK": str(rank)}
        assert started_by_launcher()
        with joined_team() as team:
            assert (team.rank, team.size) == (rank, size)
            task(team)

    processes: list[BaseProcess] = [forked.Process(target=run, args=(rank,)) for rank in range(size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    codes = [process.exitcode for process in processes]
    for process in (store, *processes):  # none outlives a failed test
        process.kill()
        process.join()
    return codes


def exchange(team: Team) -> None:
    parts = [b"", "二".encode(), bytes(range(256)) * 4000]
    assert team.scatter(parts if team.rank == 0 else None) == parts[team.rank]
    assert team.gather([team.rank, 0.1]) == [[0.0, 0.1], [1.0, 0.1], [2.0, 0.1]]


def test_everyone_gets_its_part_and_hears_all() -> None:
    assert start_team(exchange) == [0, 0, 0]


def one_leaves(team: Team) -> None:
    if team.rank == 1:
        os._exit(7)
    team.gather([1.0])


def test_nobody_waits_for_one_that_is_gone(capfd: pytest.CaptureFixture[str]) -> None:
    assert start_team(one_leaves) == [1, 7, 1]
    error = capfd.readouterr().err
    assert "process 0 ends because another one of this run has ended" in error and "Traceback" not in error


def one_is_wrong(team: Team) -> None:
    if team.rank == 0:
        raise RuntimeError("a bug of its own")
    team.scatter(None)


def test_an_error_of_its_own_is_not_hidden(capfd: pytest.CaptureFixture[str]) -> None:
    assert start_team(one_is_wrong, size=2) == [1, 1]
    assert "RuntimeError: a bug of its own" in capfd.readouterr().err


def test_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for environment in ({}, {"WORLD_SIZE": "1", "RANK": "0"}):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        with joined_team() as team:
            assert (team.rank, team.size) == (0, 1) and team.gather([3, 0.5]) == [[3.0, 0.5]]


def test_processes_that_cannot_find_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with (
        pytest.raises(UserError, match=r"MASTER_ADDR and MASTER_PORT: RANK and WORLD_SIZE are set.*torchrun"),
        joined_team(),
    ):
        pass
