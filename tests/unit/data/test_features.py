"""The feature store: what is added comes back, whoever adds it and whatever was killed meanwhile."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kimi_audio_ft import store as product_store
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


def index_lines(store: FeatureStore) -> list[dict]:
    return [json.loads(line) for line in (store.folder / "index.jsonl").read_text().splitlines()]


def is_whole(store: FeatureStore) -> bool:
    """Every key stands once, the rows follow one another, and the data end with them."""
    lines, row = index_lines(store), 0
    for line in lines:
        if line["row"] != row:
            return False
        row += len(line["codes"])
    size = row * store.dim * store.dtype.itemsize
    return len({line["key"] for line in lines}) == len(lines) and (store.folder / "features.bin").stat().st_size == size


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
    assert (store.folder / "features.bin").stat().st_size == 0


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
    assert [line["key"] for line in index_lines(first)] == ["a", "b", "c"]


@pytest.mark.parametrize("torn", [b'{"key": "b", "row": 3, "co', b'{"key": "b", "row": 3, "codes": [1, 2]}'])
@pytest.mark.parametrize("rows_behind", [b"", b"rows that no line speaks of, of no whole number"])
def test_what_a_killed_writer_left_is_cut(torn: bytes, rows_behind: bytes) -> None:
    store = open_store()
    store.add([item("a", 3)])
    for name, leftover in (("index.jsonl", torn), ("features.bin", rows_behind)):
        with (store.folder / name).open("ab") as file:
            file.write(leftover)
    reader = open_store()
    assert "b" not in reader and holds(reader, item("a", 3))
    reader.add([item("b", 2), item("c", 4)])
    assert holds(open_store(), item("a", 3), item("b", 2), item("c", 4)) and is_whole(reader)
    store.add([item("d", 1)])  # it has seen neither the leftovers nor what came after
    assert holds(store, item("a", 3), item("b", 2), item("c", 4), item("d", 1)) and is_whole(store)


def test_only_data_were_written_before_the_kill() -> None:
    store = open_store()
    store.folder.mkdir(parents=True)
    (store.folder / "features.bin").write_bytes(b"x" * 1000)
    store.add([item("a", 3)])
    assert holds(open_store(), item("a", 3)) and is_whole(store)


def test_a_store_can_be_sent_to_a_worker_without_its_rows() -> None:
    store, items = open_store(), [item(str(index), 200) for index in range(50)]
    store.add(items)
    assert holds(store, *items)
    sent = pickle.dumps(store)
    assert len(sent) < (store.folder / "features.bin").stat().st_size
    assert holds(pickle.loads(sent), *items) and holds(store, *items)


WRITER = """
import sys
import torch
from kimi_audio_ft.data.features import FeatureStore

name, rounds, length = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
store = FeatureStore({"speech_tokenizer": "s", "whisper": "w"}, 6)
for index in range(rounds):
    keys = [f"{name}{index}", f"both{index}"]
    store.add([(key, [index] * length, torch.full((length, 6), float(index))) for key in keys])
"""


def test_two_processes_at_once() -> None:
    """Both add keys of their own and keys in common; all are there once, with rows that belong to their codes."""
    rounds = 40
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, name, str(rounds), str(length)], env=os.environ.copy())
        for name, length in (("left", 3), ("right", 5))
    ]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0]
    store = open_store()
    assert is_whole(store) and len(index_lines(store)) == 3 * rounds
    for line in index_lines(store):
        index, features = int(line["key"].lstrip("lefrightbo")), store.features(line["key"])
        assert len(line["codes"]) in ((3,) if "left" in line["key"] else (5,) if "right" in line["key"] else (3, 5))
        assert set(line["codes"]) == {index} and torch.equal(features, torch.full_like(features, index))


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
    before = {path.name: path.read_bytes() for path in store.folder.iterdir()}
    refused_for_space(store, second, item("large", 20_000))
    assert {path.name: path.read_bytes() for path in store.folder.iterdir()} == before
    assert "b" not in store and "large" not in store and holds(store, first)
    store.add([second])
    assert holds(open_store(), first, second) and is_whole(store)


def test_a_disk_that_fills_while_the_index_is_written(small_disk: Path) -> None:
    """4 KiB, one page of the file system, are left: enough for the new rows but not for a longer index."""
    store, first = open_store(), item("a", 3)
    store.add([first])
    many: list[Item] = [(f"{'k' * 60}{index}", [7], torch.ones(1, DIM)) for index in range(150)]
    ballast = fill(small_disk, leave=4096)
    before = {path.name: path.read_bytes() for path in store.folder.iterdir()}
    refused_for_space(store, *many)
    assert {path.name: path.read_bytes() for path in store.folder.iterdir()} == before and is_whole(store)
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
