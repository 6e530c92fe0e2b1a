"""A small feature store, what to put into it, and whether it is whole: for the tests of its files."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from kimi_audio_ft.store.features import RECORD, FeatureStore

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
        and store.rows_of([key]).tolist() == [len(codes)]
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
