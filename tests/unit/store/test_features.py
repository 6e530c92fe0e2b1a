"""The feature store: what is added comes back."""

from __future__ import annotations

import os
import pickle
import shutil

import pytest
import torch

from kimi_audio_ft import store as product_store
from kimi_audio_ft.errors import DataError
from kimi_audio_ft.store.features import RECORD, FeatureStore, key_digest
from kimi_audio_ft.store.inventory import listing
from tests.unit.store.feature_items import DIM, ENCODERS, Item, holds, is_whole, item, open_store, records


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
    assert again.codes("a") == [5, 6] and again.codes("b") == [7] and again.rows_of(["a"]).tolist() == [2]
    assert (store.folder / "0" / "features.bin").stat().st_size == 0 and is_whole(store)


def test_other_encoders_widths_and_formats_are_other_products() -> None:
    stores = [open_store(), open_store(torch.bfloat16), FeatureStore(ENCODERS, 12), FeatureStore({"whisper": "w"}, DIM)]
    assert len({store.signature for store in stores}) == 4
    stores[0].add([item("a", 3)])
    assert "a" in open_store() and not any("a" in store for store in stores[1:])
    (listed,) = listing()
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
        store.codes("none")


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


def test_a_recording_that_another_process_finishes_first_is_not_doubled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between one's rows, which wait for the disk, and their records."""
    store, waits = open_store(), os.fsync

    def overtaken(file: int) -> None:
        waits(file)
        monkeypatch.setattr(os, "fsync", waits)
        open_store().add([item("b", 2, seed=9), item("d", 3)])

    monkeypatch.setattr(os, "fsync", overtaken)
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


def test_features_that_are_removed_while_in_use() -> None:
    """A writer that went on would put rows where its index does not speak of them."""
    store = open_store()
    store.add([item("a", 3)])
    shutil.rmtree(store.folder)
    with pytest.raises(DataError, match=r"index\.bin: has become shorter: the features were removed .*Run the same"):
        store.add([item("b", 3)])
    again = open_store()
    again.add([item("b", 4)])
    assert holds(open_store(), item("b", 4)) and is_whole(again)
