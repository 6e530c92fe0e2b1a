"""The feature store: what is added comes back, whoever adds it and whatever was killed meanwhile."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import signal
from collections.abc import Callable, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kimi_audio_ft import store as product_store
from kimi_audio_ft.data.feature_index import RECORD, key_digest
from kimi_audio_ft.data.features import FeatureStore
from kimi_audio_ft.errors import UserError

DIM = 6
ENCODERS = {"speech_tokenizer": "s", "whisper": "w"}
Item = tuple[str, list[int], Tensor | None]


def item(key: str, length: int, seed: int = 0) -> Item:
    generator = torch.Generator().manual_seed(seed + length)
    return key, list(range(length)), torch.randn(length, DIM, generator=generator)


def open_store(dtype: torch.dtype = torch.float32) -> FeatureStore:
    return FeatureStore(ENCODERS, DIM, dtype)


def holds(store: FeatureStore, *items: Item) -> bool:
    return all(
        key in store
        and store.codes(key) == codes
        and store.num_rows(key) == len(codes)
        and features is not None
        and torch.equal(store.features(key), features.to(store.dtype))
        for key, codes, features in items
    )


def records(store: FeatureStore) -> np.ndarray:
    """The index as it lies on the disk; half a record would be refused."""
    return np.frombuffer((store.folder / "index.bin").read_bytes(), RECORD)


def is_whole(store: FeatureStore) -> bool:
    """Every key stands once, the rows of a shard follow one another, and its files end with them."""
    found = records(store)
    for shard in np.unique(found["shard"]):
        own = found[found["shard"] == shard]
        ends = np.cumsum(own["count"])
        if (own["row"] != ends - own["count"]).any():
            return False
        for name, row_bytes in (("codes", 4), ("features", store.dim * store.dtype.itemsize)):
            if (store.folder / str(shard) / f"{name}.bin").stat().st_size != ends[-1] * row_bytes:
                return False
    return len(np.unique(found["key"])) == len(found)


def contents(store: FeatureStore) -> dict[str, bytes]:
    return {
        str(path.relative_to(store.folder)): path.read_bytes() for path in store.folder.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_is_added_comes_back(dtype: torch.dtype) -> None:
    store, items = open_store(dtype), [item("a", 3), item("b", 1), item("c", 7)]
    assert "a" not in store
    store.add(items[:2])
    assert holds(store, *items[:2]) and "c" not in store
    store.add(items[2:])
    assert holds(store, *items) and store.features("a").dtype == dtype
    assert holds(open_store(dtype), *items) and is_whole(store)


def test_features_are_a_copy() -> None:
    store = open_store()
    store.add([item("a", 3)])
    store.features("a").zero_()
    assert holds(store, item("a", 3))


def test_codes_only() -> None:
    store = FeatureStore({"speech_tokenizer": "s"}, dim=0)
    store.add([("a", [5, 6], None), ("b", [7], None)])
    again = FeatureStore({"speech_tokenizer": "s"}, dim=0)
    assert again.codes("a") == [5, 6] and again.codes("b") == [7] and again.num_rows("a") == 2
    assert (store.folder / "0" / "features.bin").stat().st_size == 0 and is_whole(store)


def test_other_encoders_widths_and_formats_are_other_products() -> None:
    stores = [open_store(), open_store(torch.bfloat16), FeatureStore(ENCODERS, 12), FeatureStore({"whisper": "w"}, DIM)]
    assert len({store.signature for store in stores}) == 4
    stores[0].add([item("a", 3)])
    assert "a" in open_store() and not any("a" in store for store in stores[1:])
    (listed,) = product_store.products()
    assert (listed["kind"], listed["signature"]) == ("features", stores[0].signature)


def test_a_second_object_sees_additions_after_refresh() -> None:
    first, second = open_store(), open_store()
    first.add([item("a", 3)])
    assert "a" not in second
    second.refresh()
    assert holds(second, item("a", 3))
    first.add([item("b", 4)])
    second.refresh()  # its map of the rows is older than these
    assert holds(second, item("a", 3), item("b", 4))


def test_keys_that_are_there_are_left_alone() -> None:
    first, second = open_store(), open_store()
    first.add([item("a", 3)])
    second.add([item("a", 3, seed=9), item("b", 2), item("b", 2), item("c", 5)])
    first.add([item("c", 5, seed=9)])
    assert holds(open_store(), item("a", 3), item("b", 2), item("c", 5)) and is_whole(second)
    assert records(first)["key"].tolist() == [key_digest(key).rstrip(b"\0") for key in "abc"]


def test_many_keys_are_looked_up_at_once() -> None:
    """Past some thousands the index is sorted; further ones are found too, and keys that are not there."""
    store, lengths = FeatureStore({"speech_tokenizer": "s"}, dim=0), [1 + index % 7 for index in range(6000)]
    items: list[Item] = [(f"key{index}", [index] * length, None) for index, length in enumerate(lengths)]
    store.add(items[:5000])
    store.add(items[5000:])
    for opened in (store, FeatureStore({"speech_tokenizer": "s"}, dim=0)):
        assert len(opened) == 6000
        keys = [key for key, _, _ in reversed(items)]
        assert opened.rows_of([*keys, "none", "key6000"]).tolist() == [*reversed(lengths), -1, -1]
        assert opened.codes("key17") == [17] * 4 and opened.codes("key5999") == [5999] * lengths[5999]
        assert "key4999" in opened and "key6000" not in opened
    assert opened.rows_of([]).tolist() == []
    with pytest.raises(KeyError, match="none"):
        store.num_rows("none")


def test_the_predicted_size_is_the_real_one() -> None:
    store, items = open_store(torch.bfloat16), [item("a", 3), item("b", 70)]
    store.add(items)
    files = ("index.bin", "0/codes.bin", "0/features.bin")
    assert store.bytes_for(73, 2) == sum((store.folder / name).stat().st_size for name in files)


@pytest.mark.parametrize(
    "torn",
    [b"", b"half a record", bytes(RECORD.itemsize), bytes(RECORD.itemsize + 5)],
    ids=["no record", "half a record", "zeros", "more zeros"],
)
@pytest.mark.parametrize("rows_behind", [b"", b"no whole number of rows"], ids=["no rows", "rows"])
def test_what_a_killed_writer_left_is_cut(torn: bytes, rows_behind: bytes) -> None:
    """Zeros too, which a power failure leaves of what had not reached the disk."""
    store = open_store()
    store.add([item("a", 3)])
    for name, leftover in (("index.bin", torn), ("0/features.bin", rows_behind), ("0/codes.bin", rows_behind)):
        with (store.folder / name).open("ab") as file:
            file.write(leftover)
    reader = open_store()
    assert "b" not in reader and len(reader) == 1 and holds(reader, item("a", 3))
    reader.add([item("b", 2), item("c", 4)])
    assert holds(open_store(), item("a", 3), item("b", 2), item("c", 4)) and is_whole(reader)
    store.add([item("d", 1)])  # it has seen neither the leftovers nor what came after
    assert holds(store, item("a", 3), item("b", 2), item("c", 4), item("d", 1)) and is_whole(store)


def test_only_data_were_written_before_the_kill() -> None:
    store = open_store()
    (store.folder / "0").mkdir(parents=True)
    (store.folder / "0" / "features.bin").write_bytes(b"x" * 1000)
    store.add([item("a", 3)])
    assert holds(open_store(), item("a", 3)) and is_whole(store)


def test_a_second_writer_takes_a_shard_of_its_own() -> None:
    """It does not wait for the first one's rows, and keys that the first one has finished meanwhile are left alone."""
    first, second = open_store(), open_store()
    first.add([item("a", 3)])
    with product_store.lock("features", f"{first.signature}.0"):
        second.add([item("b", 2)])
    second.add([item("c", 1)])
    assert records(first)["shard"].tolist() == [0, 1, 0]
    assert holds(open_store(), item("a", 3), item("b", 2), item("c", 1)) and is_whole(first)


class Overtaken(FeatureStore):
    """Another process adds its items between this one's rows and their records."""

    other: tuple[Item, ...] = ()

    def _write_rows(self, shard: int, items: Mapping[str, Item]) -> list[tuple[bytes, int, int, int]]:
        written = super()._write_rows(shard, items)
        other, self.other = self.other, ()
        open_store().add(other)
        return written


def test_a_recording_that_another_process_finishes_first_is_not_doubled() -> None:
    store = Overtaken(ENCODERS, DIM)
    store.other = (item("b", 2, seed=9), item("d", 3))
    store.add([item("a", 3), item("b", 2), item("c", 4)])
    for opened in (store, open_store()):
        assert holds(opened, item("a", 3), item("b", 2, seed=9), item("c", 4), item("d", 3)) and is_whole(opened)
    assert len(store) == 4


def test_a_store_can_be_sent_to_a_worker_without_its_rows() -> None:
    store, items = open_store(), [item(str(index), 200) for index in range(50)]
    store.add(items)
    assert holds(store, *items)
    sent = pickle.dumps(store)
    assert len(sent) < 1000
    assert holds(pickle.loads(sent), *items) and holds(store, *items)


def start(write: Callable[..., None], *arguments: Any) -> BaseProcess:
    """A process of its own, forked: importing torch takes seconds."""
    process = multiprocessing.get_context("fork").Process(target=write, args=arguments)
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
        writer.join(120)
    assert [writer.exitcode for writer in writers] == [0, 0]
    store = open_store()
    assert is_whole(store) and len(store) == 3 * rounds
    for index in range(rounds):
        for key, lengths in ((f"left{index}", (3,)), (f"right{index}", (5,)), (f"both{index}", (3, 5))):
            codes, features = store.codes(key), store.features(key)
            assert len(codes) in lengths and set(codes) == {index}
            assert torch.equal(features, torch.full((len(codes), DIM), float(index)))


PARTS = 4


def write_missing(first: int, rounds: int, reports: int) -> None:
    """What every process that shares a piece of work does; one byte goes to the pipe for each addition behind it."""
    store = open_store()
    for index in range(first, first + rounds):
        keys = [f"{index}.{part}" for part in range(PARTS)]
        missing = [key for key in keys if key not in store]
        store.add([(key, [index] * 500, torch.full((500, DIM), float(index))) for key in missing])
        os.write(reports, b".")


def test_writers_that_are_killed_lose_and_double_nothing() -> None:
    """Three at a time are killed at whatever they are doing, again and again, until all has been written."""
    rounds, kills, last_words = 40, 0, 3
    unfinished = [0, rounds, 2 * rounds]
    while unfinished:
        pipes = {first: os.pipe() for first in unfinished}
        writers = {first: start(write_missing, first, rounds, pipes[first][1]) for first in unfinished}
        for first, writer in writers.items():
            os.close(pipes[first][1])
            with os.fdopen(pipes[first][0], "rb") as reports:
                reports.read(last_words)
            writer.kill()
            writer.join(60)
            assert writer.exitcode in (0, -signal.SIGKILL)
            kills += writer.exitcode != 0
        unfinished = [first for first in unfinished if writers[first].exitcode]
        last_words += 4
    assert kills >= 10
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
