"""What the recordings of a manifest are: there or not, and their contents' digests, for all of them at once."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Iterator
from itertools import compress, islice
from pathlib import Path
from stat import S_ISREG

import numpy as np

from kimi_audio_ft.data.manifest_index import Columns
from kimi_audio_ft.store.cache import Arrays, remembered
from kimi_audio_ft.store.digests import file_digests

# Recordings whose paths are in memory at the same time.
_AT_ONCE = 10_000


class Recordings:
    """The recordings that the audio messages of a manifest name, in the order of the messages.

    Every method looks at the disk as it is when it is called. ``root`` is where relative names start.
    """

    def __init__(self, columns: Columns, root: Path) -> None:
        self.columns, self.root, self.count = columns, str(root), len(columns.codes)

    def states(self) -> np.ndarray:
        """``[count, 2]``: size and time of change (ns) of every recording; -1 where there is no such file."""
        states, folders = array("q"), _Folders()
        for path in self._paths():
            states.extend(_state(path) if folders[path.rpartition("/")[0]] else (-1, -1))
        return np.frombuffer(states, np.int64).reshape(-1, 2) if states else np.empty((0, 2), np.int64)

    def digests(self) -> np.ndarray:
        """``[count, 32]`` bytes: sha256 of every recording; zeros where there is no such file.

        Remembered while names, sizes and times of change stay as they are.
        """
        states = self.states()
        names = [hash_of(self.columns.names), hash_of(self.columns.name_sizes)]
        facts = {"kind": "digests", "root": self.root, "names": names, "states": hash_of(states)}

        def make() -> Arrays:
            digests = np.zeros((self.count, 32), np.uint8)
            there = states[:, 0] >= 0
            paths, places = compress(self._paths(), there), np.flatnonzero(there)
            for start in range(0, len(places), _AT_ONCE):
                some = file_digests(list(islice(paths, _AT_ONCE)))
                rows = np.frombuffer(bytes.fromhex("".join(some)), np.uint8).reshape(-1, 32)
                digests[places[start : start + _AT_ONCE]] = rows
            return {"digests": digests}

        return remembered(facts, make)["digests"]

    def num_codes(self, digests: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """``[count]``: number of codes that each of the wanted recordings gives, read from its header; else 0.

        Raises:
            AudioError: a recording cannot be read.
        """
        from kimi_audio_ft.data.audio import audio_info
        from kimi_audio_ft.model.audio_frontend import num_audio_tokens

        facts = {"kind": "num_codes", "digests": hash_of(digests), "wanted": hash_of(wanted)}

        def make() -> Arrays:
            numbers, chosen = np.zeros(self.count, np.int32), np.zeros(self.count, bool)
            chosen[wanted] = True
            paths = compress(self._paths(), chosen)
            numbers[chosen] = [num_audio_tokens(audio_info(Path(path)).num_samples_16k) for path in paths]
            return {"num_codes": numbers}

        return remembered(facts, make)["num_codes"]

    def _paths(self) -> Iterator[str]:
        """Path of every recording; empty where a message names none."""
        # A Path for each of a million recordings would take longer than looking them up.
        return (os.path.join(self.root, name) if name else "" for name in self.columns.all_names())  # noqa: PTH118


class _Folders(dict[str, bool]):
    """Whether a folder is there, looked up once: a manifest may travel without its recordings."""

    def __missing__(self, folder: str) -> bool:
        return self.setdefault(folder, not folder or os.path.isdir(folder))  # noqa: PTH112 - false for impossible names


def hash_of(values: np.ndarray) -> str:
    """sha256 of an array's values."""
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


def _state(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)  # noqa: PTH116
    except (OSError, ValueError):  # not there, or a name that no file can have
        return -1, -1
    return (status.st_size, status.st_mtime_ns) if S_ISREG(status.st_mode) else (-1, -1)
