"""The feature store: codes and Whisper features of recordings, computed once.

One product per pair of encoders, ``features/<signature>/``, that only grows. Rows are in shards, ``0/codes.bin`` and
``0/features.bin`` (memory-mapped on reading), of which every process that adds something takes a free one for as long
as it writes; ``index.bin`` says where a recording's rows are. Its records are written after the
rows have reached the disk, so whatever a killed process left behind them is cut off by the next writer of the shard.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import Timeout
from torch import Tensor

from kimi_audio_ft.errors import DataError
from kimi_audio_ft.files import raise_if_full
from kimi_audio_ft.store.make import META, lock, product_path, write_meta
from kimi_audio_ft.store.signature import feature_facts, feature_signature

_NUMPY = {torch.float32: np.float32, torch.bfloat16: np.uint16, torch.float16: np.float16}
_CODE = np.dtype("<i4")

Item = tuple[str, Sequence[int], Tensor | None]
"""A key, its codes and its features ``[T, dim]``."""


class FeatureStore:
    """Codes (without the model's offset) and features ``[T, dim]`` by key.

    Args:
        encoders: identities of what computes the values (JSON); their hash names the product.
        dim: width of a feature row; 0 stores codes only.
        dtype: number format of the rows.
    """

    def __init__(self, encoders: dict[str, Any], dim: int, dtype: torch.dtype = torch.float32) -> None:
        self.dim, self.dtype = dim, dtype
        self._facts = feature_facts(encoders, dim, str(dtype))
        self.signature = feature_signature(encoders, dim, str(dtype))
        self.folder = product_path("features", self.signature)
        self._index = FeatureIndex(self.folder / "index.bin")
        self._maps: dict[tuple[str, int], np.ndarray] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """For worker processes, which open the store again: a memory map would be copied whole."""
        return FeatureStore, (self._facts["encoders"], self.dim, self.dtype)

    def __contains__(self, key: str) -> bool:
        return self._index.find_one(key_digest(key)) >= 0

    def __len__(self) -> int:
        return len(self._index)

    def refresh(self) -> None:
        """See what other processes have added since the last look."""
        self._index.refresh()

    def codes(self, key: str) -> list[int]:
        return self._rows("codes", key).tolist()

    def rows_of(self, keys: Iterable[str]) -> np.ndarray:
        """Number of codes, and of feature rows, of recordings, int64 ``[number of keys]``; -1 for one not there."""
        positions = self._index.find([key_digest(key) for key in keys])
        rows = np.full(len(positions), -1, np.int64)
        rows[positions >= 0] = self._index.records["count"][positions[positions >= 0]]
        return rows

    def features(self, key: str) -> Tensor:
        """Features ``[T, dim]`` of a recording, a copy in memory."""
        assert self.dim, "this store holds codes only"
        rows = torch.from_numpy(np.array(self._rows("features", key)))
        return rows.view(self.dtype) if self.dtype == torch.bfloat16 else rows

    def bytes_for(self, rows: int, recordings: int) -> int:
        """Bytes on the disk of a number of rows and recordings."""
        return rows * (self.dim * self.dtype.itemsize + _CODE.itemsize) + recordings * RECORD.itemsize

    def add(self, items: Sequence[Item]) -> None:
        """Append ``(key, codes, features)`` of new keys; a full disk is a UserError and keeps nothing half-written."""
        with self._free_shard() as shard:
            try:
                (self.folder / str(shard)).mkdir(parents=True, exist_ok=True)
                with lock("features", self.signature):
                    if not (self.folder / META).is_file():
                        write_meta(self.folder, "features", self.signature, self._facts)
                while missing := self._missing(items):
                    self._cut(shard)
                    records = self._write_rows(shard, missing)
                    with lock("features", self.signature):
                        # If another process has added one of them meanwhile, the others are written again without it.
                        if len(self._missing(items)) == len(missing):
                            self._index.append(records)
            except OSError as error:
                self._cut(shard)
                raise_if_full(error, self.folder)
                raise

    def _missing(self, items: Sequence[Item]) -> dict[str, Item]:
        self.refresh()
        return {item[0]: item for item in items if item[0] not in self}

    @contextmanager
    def _free_shard(self) -> Iterator[int]:
        """The first shard that no process writes to, held against the others."""
        with ExitStack() as held:
            for number in count():
                try:
                    held.enter_context(lock("features", f"{self.signature}.{number}", timeout=0))
                    break
                except Timeout:
                    continue
            yield number

    def _write_rows(self, shard: int, items: Mapping[str, Item]) -> list[tuple[bytes, int, int, int]]:
        """Append rows to a shard and wait until the disk has them; returns their records."""
        records, row = [], self._index.end_row(shard)
        with self._file("codes", shard).open("ab") as codes_file, self._file("features", shard).open("ab") as rows_file:
            for key, codes, features in items.values():
                assert len(codes) > 0, key
                codes_file.write(np.asarray(codes, _CODE).tobytes())
                if self.dim:
                    assert features is not None and features.shape == (len(codes), self.dim), key
                    rows_file.write(_bytes_of(features.to(self.dtype)))
                records.append((key_digest(key), row, len(codes), shard))
                row += len(codes)
            for file in (codes_file, rows_file):
                file.flush()
                os.fsync(file.fileno())
        return records

    def _cut(self, shard: int) -> None:
        """Cut both files behind the last row of the index."""
        self.refresh()
        for name, row_bytes in (("codes", _CODE.itemsize), ("features", self.dim * self.dtype.itemsize)):
            path, size = self._file(name, shard), self._index.end_row(shard) * row_bytes
            if path.is_file() and path.stat().st_size > size:
                os.truncate(path, size)

    def _file(self, name: str, shard: int) -> Path:
        return self.folder / str(shard) / f"{name}.bin"

    def _rows(self, name: str, key: str) -> np.ndarray:
        """The map's own ``[T]`` codes or ``[T, dim]`` features."""
        position = self._index.find_one(key_digest(key))
        if position < 0:
            raise KeyError(key)
        record = self._index.records[position]
        shard, start, end = int(record["shard"]), int(record["row"]), int(record["row"]) + int(record["count"])
        rows = self._maps.get((name, shard))
        if rows is None or len(rows) < end:
            # Only the rows of the index: another process may be writing behind them.
            shape = (self._index.end_row(shard),) + ((self.dim,) if name == "features" else ())
            dtype = _NUMPY[self.dtype] if name == "features" else _CODE
            self._maps[name, shard] = rows = np.memmap(self._file(name, shard), dtype, "r", shape=shape)
        return rows[start:end]


def _bytes_of(features: Tensor) -> bytes:
    rows = features.detach().cpu().contiguous()
    return (rows.view(torch.uint16) if rows.dtype == torch.bfloat16 else rows).numpy().tobytes()


# key: 16 bytes of a digest; the rows ``row`` to ``row + count`` of the shard are the recording's.
RECORD = np.dtype([("key", "S16"), ("row", "<u8"), ("count", "<u4"), ("shard", "<u4")])
# Records since the last sorting are looked up in a dict; sorting again costs a second per million.
_MOST_UNSORTED = 4096


def key_digest(key: str) -> bytes:
    """Digest of a key, 16 bytes; collisions are not to be expected in any store."""
    return hashlib.blake2b(key.encode(), digest_size=16).digest()


class FeatureIndex:
    """Which shard holds a recording's rows, and where: positions of keys in ``records``. A million open in a second."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: np.ndarray = np.zeros(0, RECORD)
        self._sorted_keys: np.ndarray = np.zeros(0, "S16")
        self._order: np.ndarray = np.zeros(0, np.int64)
        self._unsorted: dict[bytes, int] = {}
        self._ends: dict[int, int] = {}
        self.refresh()

    def __len__(self) -> int:
        return len(self.records)

    def refresh(self) -> None:
        """Read the whole records added since the last look; DataError if records that were there are gone."""
        known = len(self.records)
        whole = self.path.stat().st_size // RECORD.itemsize if self.path.is_file() else 0
        if whole < known:
            problem = "has become shorter: the features were removed from the store while they were in use"
            raise DataError(self.path, problem, "Run the same command again")
        if whole == known:
            return
        records: np.ndarray = np.memmap(self.path, RECORD, "r", shape=(whole,))
        # A power failure can leave the file's new length without its new contents; no recording has 0 rows.
        unwritten = np.flatnonzero(records["count"][known:] == 0)
        if len(unwritten):
            records = records[: known + unwritten[0]]
        self.records, new = records, records[known:]
        for shard in np.unique(new["shard"]):
            last = new[np.flatnonzero(new["shard"] == shard)[-1]]
            self._ends[int(shard)] = int(last["row"]) + int(last["count"])
        if len(self._unsorted) + len(new) > _MOST_UNSORTED + len(self._order) // 8:
            self._sort()
        else:
            self._unsorted |= {_bytes16(key): known + position for position, key in enumerate(new["key"])}

    def _sort(self) -> None:
        keys = np.array(self.records["key"])
        self._order = np.argsort(keys, kind="stable")
        self._sorted_keys = keys[self._order]
        self._unsorted.clear()

    def find(self, digests: Sequence[bytes]) -> np.ndarray:
        """Positions ``[len(digests)]`` in ``records``, -1 where a key is not there."""
        positions = np.full(len(digests), -1, np.int64)
        if len(self._order) and len(digests):
            wanted = np.array(digests, "S16")
            ranks = np.searchsorted(self._sorted_keys, wanted).clip(max=len(self._order) - 1)
            positions = np.where(self._sorted_keys[ranks] == wanted, self._order[ranks], positions)
        if self._unsorted:
            for number in np.flatnonzero(positions < 0).tolist():
                positions[number] = self._unsorted.get(digests[number], -1)
        return positions

    def find_one(self, digest: bytes) -> int:
        position = self._unsorted.get(digest, -1)
        return position if position >= 0 else int(self.find([digest])[0])

    def end_row(self, shard: int) -> int:
        return self._ends.get(shard, 0)

    def append(self, entries: Iterable[tuple[bytes, int, int, int]]) -> None:
        """Add records ``(digest, row, count, shard)``; the caller holds the store's lock and has refreshed.

        Whatever a killed writer, or a full disk, left of a record is cut off first. Whole records that did reach a full
        disk stay, for a reader may have seen them.
        """
        self.refresh()
        if self.path.is_file() and self.path.stat().st_size > len(self.records) * RECORD.itemsize:
            os.truncate(self.path, len(self.records) * RECORD.itemsize)
        try:
            with self.path.open("ab") as file:
                file.write(np.array(list(entries), RECORD).tobytes())
                file.flush()
                os.fsync(file.fileno())
        finally:
            self.refresh()


def _bytes16(key: bytes) -> bytes:
    """numpy drops the zeros at the end of a byte string."""
    return bytes(key).ljust(16, b"\0")
