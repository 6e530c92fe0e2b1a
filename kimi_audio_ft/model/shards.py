"""Safetensors files piece by piece: headers without tensors, and writing without holding a file in memory.

A safetensors file is the length of its header (8 bytes, little endian), the header (JSON: dtype, shape and place of
every tensor) and the tensors' bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from kimi_audio_ft.errors import DataError

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_MOST_HEADER_BYTES = 100 * 2**20


@dataclass(frozen=True)
class TensorInfo:
    """What a header says of a tensor."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes that the tensor takes in its file."""
        return math.prod(self.shape) * self.dtype.itemsize


def plan_shards(sizes: Mapping[str, int], most_bytes: float) -> dict[str, list[str]]:
    """Names of tensors by the file that shall hold them, ``model-1-of-N.safetensors`` and so on, in order.

    Args:
        sizes: bytes of every tensor. most_bytes: of a file; a tensor may be larger and then has a file of its own.
    """
    shards: list[list[str]] = [[]]
    size = 0
    for name, nbytes in sizes.items():
        if shards[-1] and size + nbytes > most_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += nbytes
    return {f"model-{number}-of-{len(shards)}.safetensors": names for number, names in enumerate(shards, start=1)}


def shard_index(sizes: Mapping[str, int], shards: Mapping[str, list[str]]) -> dict[str, Any]:
    """The index beside such files."""
    weight_map = {name: file for file, names in shards.items() for name in names}
    return {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Tensors that a file declares. Raises DataError when it is cut off, damaged or no safetensors file."""
    remedy = "Download it again"
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(_MOST_HEADER_BYTES, size - 8):
                raise ValueError("it has no header")
            entries = json.loads(file.read(length))
        entries.pop("__metadata__", None)
        found = {name: TensorInfo(DTYPES[row["dtype"]], tuple(row["shape"])) for name, row in entries.items()}
        wanted = 8 + length + max((row["data_offsets"][1] for row in entries.values()), default=0)
    except OSError as error:
        raise DataError(path, f"cannot be read ({error.strerror})", remedy) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(path, f"is not a readable safetensors file ({error})", remedy) from None
    if wanted != size:
        problem = f"is not a readable safetensors file (its header declares {wanted:,} bytes, it has {size:,})"
        raise DataError(path, problem, remedy)
    return found


class ShardWriter:
    """Writes one safetensors file whose tensors are known in advance and arrive in pieces, in order."""

    def __init__(self, path: Path, tensors: Mapping[str, TensorInfo]) -> None:
        self._expected = iter(tensors.items())
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name, info in tensors.items():
            start, end = end, end + info.nbytes
            header[name] = {"dtype": _NAMES[info.dtype], "shape": list(info.shape), "data_offsets": [start, end]}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8 bytes, so that they can be memory-mapped
        self._file: BinaryIO = path.open("wb")
        self._file.write(len(text).to_bytes(8, "little") + text)

    def write(self, name: str, pieces: Iterator[Tensor]) -> None:
        """Write the next tensor, given as consecutive pieces of its first dimension."""
        expected, info = next(self._expected)
        assert name == expected, (name, expected)
        written = 0
        for piece in pieces:
            assert piece.dtype == info.dtype, (name, piece.dtype)
            data = piece.contiguous().reshape(-1).view(torch.uint8)
            self._file.write(data.numpy().data)
            written += data.numel()
        assert written == info.nbytes, (name, written, info.nbytes)

    def close(self) -> None:
        """Finish the file; all tensors must have been written."""
        try:
            assert next(self._expected, None) is None
        finally:
            self._file.close()

    def abandon(self) -> None:
        """Close the file as it is, after an error."""
        self._file.close()
