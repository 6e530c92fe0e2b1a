"""The feature store's index: which shard holds a recording's rows, and where. A million entries open in about a second.

``index.bin`` is a row of 32-byte records that only grows. Readers memory-map it and sort the keys' digests; whole
records never change or go away, so that what a reader has seen once stays true without a lock.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from kimi_audio_ft.errors import DataError

# key: 16 bytes of a digest; the rows ``row`` to ``row + count`` of the shard are the recording's.
RECORD = np.dtype([("key", "S16"), ("row", "<u8"), ("count", "<u4"), ("shard", "<u4")])
# Records since the last sorting are looked up in a dict; sorting again costs a second per million.
_MOST_UNSORTED = 4096


def key_digest(key: str) -> bytes:
    """The 16 bytes that stand for a key; two keys of the same digest are not to be expected in any store."""
    return hashlib.blake2b(key.encode(), digest_size=16).digest()


class FeatureIndex:
    """Positions of keys in ``records``, the whole records read so far; ``refresh`` reads further."""

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
        """Read the whole records that were added since the last look.

        Raises:
            DataError: records that were there are gone.
        """
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
            places = np.searchsorted(self._sorted_keys, wanted).clip(max=len(self._order) - 1)
            positions = np.where(self._sorted_keys[places] == wanted, self._order[places], positions)
        if self._unsorted:
            for number in np.flatnonzero(positions < 0).tolist():
                positions[number] = self._unsorted.get(digests[number], -1)
        return positions

    def find_one(self, digest: bytes) -> int:
        """Position of one key, or -1."""
        position = self._unsorted.get(digest, -1)
        return position if position >= 0 else int(self.find([digest])[0])

    def end_row(self, shard: int) -> int:
        """Row behind the last one of a shard that a record speaks of."""
        return self._ends.get(shard, 0)

    def append(self, entries: Iterable[tuple[bytes, int, int, int]]) -> None:
        """Add records ``(digest, row, count, shard)``; the caller holds the store's lock and has refreshed.

        Whatever a killed writer, or a full disk, left of a record is cut off first. Whole records that did reach a full
        disk stay, for a reader may have seen them.
        """
        self._cut_torn()
        try:
            with self.path.open("ab") as file:
                file.write(np.array(list(entries), RECORD).tobytes())
                file.flush()
                os.fsync(file.fileno())
        finally:
            self.refresh()

    def _cut_torn(self) -> None:
        self.refresh()
        if self.path.is_file() and self.path.stat().st_size > len(self.records) * RECORD.itemsize:
            os.truncate(self.path, len(self.records) * RECORD.itemsize)


def _bytes16(key: bytes) -> bytes:
    """numpy drops the zeros at the end of a byte string."""
    return bytes(key).ljust(16, b"\0")
