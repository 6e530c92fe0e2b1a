"""The feature store: codes and Whisper features of recordings, computed once.

One product per pair of encoders, ``features/<signature>/``, that only grows: ``features.bin`` holds the rows of every
recording one after another (memory-mapped on reading), ``index.jsonl`` says where each begins and holds its codes.
A line is written after its rows have reached the disk, so whatever a killed process left behind the last whole line
is cut off by the next writer.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kimi_audio_ft.signature import STAGE_VERSION, digest_of
from kimi_audio_ft.store import META, _write_meta, lock, product_path, raise_if_full

_NUMPY = {torch.float32: np.float32, torch.bfloat16: np.uint16, torch.float16: np.float16}


def feature_facts(encoders: dict[str, Any], dim: int, dtype: torch.dtype) -> dict[str, Any]:
    """All that the values in a feature store depend on."""
    return {"encoders": encoders, "dim": dim, "dtype": str(dtype), "version": STAGE_VERSION["features"]}


def feature_signature(encoders: dict[str, Any], dim: int, dtype: torch.dtype) -> str:
    """Name of a feature store, without reading it."""
    return "f" + digest_of(feature_facts(encoders, dim, dtype))[1:]


class FeatureStore:
    """Codes (without the model's offset) and features ``[T, dim]`` by key.

    Args:
        encoders: identities of what computes the values (JSON); their hash names the product.
        dim: width of a feature row; 0 stores codes only.
        dtype: number format of the rows.
    """

    def __init__(self, encoders: dict[str, Any], dim: int, dtype: torch.dtype = torch.float32) -> None:
        self.dim, self.dtype = dim, dtype
        self._facts = feature_facts(encoders, dim, dtype)
        self.signature = feature_signature(encoders, dim, dtype)
        self.folder = product_path("features", self.signature)
        self._entries: dict[str, dict[str, Any]] = {}
        self._index_bytes = 0
        self._rows: np.ndarray | None = None
        self.refresh()

    @property
    def _index(self) -> Path:
        return self.folder / "index.jsonl"

    @property
    def _data(self) -> Path:
        return self.folder / "features.bin"

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def refresh(self) -> None:
        """Read the whole index lines that were added since the last look."""
        if not self._index.is_file():
            return
        with self._index.open("rb") as file:
            file.seek(self._index_bytes)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                entry = json.loads(line)
                self._entries[entry["key"]] = entry
                self._index_bytes += len(line)

    def codes(self, key: str) -> list[int]:
        """Codes of a recording."""
        return list(self._entries[key]["codes"])

    def num_rows(self, key: str) -> int:
        """Number of codes, and of feature rows, of a recording."""
        return len(self._entries[key]["codes"])

    def features(self, key: str) -> Tensor:
        """Features ``[T, dim]`` of a recording, a copy in memory."""
        assert self.dim, "this store holds codes only"
        entry = self._entries[key]
        start, count = entry["row"], len(entry["codes"])
        if self._rows is None or self._rows.shape[0] < start + count:
            # Only what the index speaks of: another process may be writing behind it.
            shape = (self._end_row(), self.dim)
            self._rows = np.memmap(self._data, dtype=_NUMPY[self.dtype], mode="r", shape=shape)
        rows = torch.from_numpy(np.array(self._rows[start : start + count]))
        return rows.view(self.dtype) if self.dtype == torch.bfloat16 else rows

    def add(self, items: Sequence[tuple[str, list[int], Tensor | None]]) -> None:
        """Append ``(key, codes, features)``; keys that another process added meanwhile are left alone.

        Raises:
            UserError: the disk is full; the store is as before.
        """
        with lock("features", self.signature):
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                if not (self.folder / META).is_file():
                    _write_meta(self.folder, "features", self.signature, self._facts)
                self.refresh()
                self._cut_leftovers()
                missing = {item[0]: item for item in items if item[0] not in self._entries}
                self._append(list(missing.values()), self._end_row())
            except OSError as error:
                self._cut_leftovers()
                raise_if_full(error, self.folder)
                raise
            self.refresh()

    def __getstate__(self) -> dict[str, Any]:
        """For worker processes: without the map of the rows, which would be copied whole."""
        return {**self.__dict__, "_rows": None}

    def _append(self, items: Sequence[tuple[str, list[int], Tensor | None]], row: int) -> None:
        lines = []
        with self._data.open("ab") as data:
            for key, codes, features in items:
                if self.dim:
                    assert features is not None and features.shape == (len(codes), self.dim), key
                    data.write(_bytes_of(features.to(self.dtype)))
                lines.append(json.dumps({"key": key, "row": row, "codes": codes}))
                row += len(codes)
            data.flush()
            os.fsync(data.fileno())
        with self._index.open("ab") as index:
            index.write("".join(f"{line}\n" for line in lines).encode())

    def _end_row(self) -> int:
        last = next(reversed(self._entries.values()), None)
        return last["row"] + len(last["codes"]) if last else 0

    def _cut_leftovers(self) -> None:
        """Cut both files behind what the index lines read so far speak of."""
        size = self._end_row() * self.dim * self.dtype.itemsize
        for path, length in ((self._data, size), (self._index, self._index_bytes)):
            if path.is_file() and path.stat().st_size > length:
                os.truncate(path, length)


def _bytes_of(features: Tensor) -> bytes:
    rows = features.detach().cpu().contiguous()
    return (rows.view(torch.uint16) if rows.dtype == torch.bfloat16 else rows).numpy().tobytes()
