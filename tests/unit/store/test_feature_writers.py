"""The feature store under several writers, killed ones and full disks."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from kimi_audio_ft.errors import UserError
from kimi_audio_ft.store.features import FeatureStore
from tests.unit.store.feature_items import DIM, Item, contents, holds, is_whole, item, open_store


def start(write: Callable[..., None], *arguments: Any) -> BaseProcess:
    """A process of its own, forked: importing torch takes seconds."""
    process = multiprocessing.get_context("fork").Process(target=write, args=arguments, daemon=True)
    process.start()
    return process


def write_own_and_common(name: str, rounds: int, length: int) -> None:
    store = open_store()
    for index in range(rounds):
        keys = [f"{name}{index}", f"both{index}"]
        store.add([(key, [index] * length, torch.full((length, DIM), float(index))) for key in keys])


def test_two_processes_at_once() -> None:
    """Both add keys of their own and keys in common; all are there once, with rows that belong to their codes."""
    rounds = 40
    writers = [start(write_own_and_common, name, rounds, length) for name, length in (("left", 3), ("right", 5))]
    for writer in writers:
        writer.join(600)
    assert [writer.exitcode for writer in writers] == [0, 0]
    store = open_store()
    assert is_whole(store) and len(store) == 3 * rounds
    for index in range(rounds):
        for key, lengths in ((f"left{index}", (3,)), (f"right{index}", (5,)), (f"both{index}", (3, 5))):
            codes, features = store.codes(key), store.features(key)
            assert len(codes) in lengths and set(codes) == {index}
            assert torch.equal(features, torch.full((len(codes), DIM), float(index)))


PARTS = 4


def write_missing(first: int, rounds: int, reports: int | None) -> None:
    """What every process that shares a piece of work does.

    reports: a pipe that gets a byte for each addition; whoever has one does not end by itself.
    """
    store = open_store()
    for index in range(first, first + rounds):
        keys = [f"{index}.{part}" for part in range(PARTS)]
        missing = [key for key in keys if key not in store]
        store.add([(key, [index] * 500, torch.full((500, DIM), float(index))) for key in missing])
        if reports is not None:
            os.write(reports, b".")
    while reports is not None:
        signal.pause()


@pytest.mark.slow
def test_writers_that_are_killed_lose_and_double_nothing() -> None:
    """Three at a time are killed at whatever they are doing, again and again, before all has been written."""
    rounds = 40
    for last_words in (3, 9, 15, 21):
        pipes = [os.pipe() for _ in range(3)]
        writers = [start(write_missing, number * rounds, rounds, pipes[number][1]) for number in range(3)]
        for writer, (reports, told) in zip(writers, pipes, strict=True):
            with os.fdopen(reports, "rb") as words:
                words.read(last_words)
                writer.kill()
                writer.join(600)
            os.close(told)
            assert writer.exitcode == -signal.SIGKILL
    writers = [start(write_missing, number * rounds, rounds, None) for number in range(3)]
    for writer in writers:
        writer.join(600)
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    store = open_store()
    assert len(store) == 3 * rounds * PARTS
    store.add([item("last", 2)])  # cuts what the killed ones left in the shard it takes
    for index in range(3 * rounds):
        for part in range(PARTS):
            key = f"{index}.{part}"
            assert store.codes(key) == [index] * 500
            assert torch.equal(store.features(key), torch.full((500, DIM), float(index)))


@pytest.fixture
def small_disk(disk_of: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file system of 256 KiB that holds the store."""
    disk = disk_of(256)
    monkeypatch.setenv("KIMI_AUDIO_FT_STORE", str(disk / "store"))
    return disk


def fill(disk: Path, leave: int) -> Path:
    """Take all of the disk's space but ``leave`` bytes."""
    free = shutil.disk_usage(disk).free
    (disk / "ballast").write_bytes(b"x" * (free - leave))
    return disk / "ballast"


def refused_for_space(store: FeatureStore, *items: Item) -> None:
    with pytest.raises(UserError, match=r"the disk is full; nothing half-written was kept\..*KIMI_AUDIO_FT_STORE"):
        store.add(items)


def test_a_disk_that_fills_while_rows_are_written(small_disk: Path) -> None:
    store, first, second = open_store(), item("a", 3), item("b", 4)
    store.add([first])
    before = contents(store)
    refused_for_space(store, second, item("large", 20_000))
    assert contents(store) == before
    assert "b" not in store and "large" not in store and holds(store, first)
    store.add([second])
    assert holds(open_store(), first, second) and is_whole(store)


def test_a_disk_that_fills_while_the_index_is_written(small_disk: Path) -> None:
    """One page of the file system for each file of rows is left, and none for a longer index."""
    store, first = open_store(), item("a", 3)
    store.add([first])
    many: list[Item] = [(f"k{index}", [7], torch.ones(1, DIM)) for index in range(150)]
    ballast = fill(small_disk, leave=0)
    refused_for_space(store, *many)
    # What reached the index whole stays, for a reader may have seen it; nothing torn does.
    whole = len(store)
    assert 1 < whole < 151 and is_whole(store) and holds(store, first, *many[: whole - 1])
    assert not any(key in store for key, _, _ in many[whole - 1 :])
    ballast.unlink()
    store.add(many)
    assert holds(open_store(), first, *many) and is_whole(store)


def test_a_disk_that_is_full_from_the_start(small_disk: Path) -> None:
    ballast = fill(small_disk, leave=0)
    refused_for_space(open_store(), item("a", 3))
    ballast.unlink()
    store = open_store()
    assert "a" not in store
    store.add([item("a", 3)])
    assert holds(open_store(), item("a", 3)) and is_whole(store)
