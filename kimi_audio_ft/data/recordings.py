"""What the recordings of a manifest are: there or not, and their contents' digests, for all of them at once."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from stat import S_ISREG

import numpy as np

from kimi_audio_ft.data.remembered import Arrays, remembered
from kimi_audio_ft.signature import file_digests

# Recordings whose paths are in memory at the same time.
_AT_ONCE = 10_000


class Recordings:
    """The recordings that audio messages name, in the order of the messages.

    Args:
        names: what each message names, absolute or relative to ``root``; empty when it names none. Iterated anew by
            every method, which looks at the disk as it is then.
    """

    def __init__(self, names: Iterable[str], root: Path, count: int) -> None:
        self.names, self.root, self.count = names, str(root), count

    def states(self) -> np.ndarray:
        """``[count, 2]``: size and time of change (ns) of every recording; -1 where there is no such file."""
        states = np.full((self.count, 2), -1, np.int64)
        for place, path in enumerate(self._paths()):
            if path:
                states[place] = _state(path)
        return states

    def digests(self) -> np.ndarray:
        """``[count, 32]`` bytes: sha256 of every recording; zeros where there is no such file.

        Remembered while names, sizes and times of change stay as they are.
        """
        states = self.states()
        facts = {"kind": "digests", "paths": _hash(path.encode() for path in self._paths()), "states": hash_of(states)}

        def make() -> Arrays:
            digests = np.zeros((self.count, 32), np.uint8)
            there = np.flatnonzero(states[:, 0] >= 0)
            wanted = iter(there.tolist())
            paths = (path for path, state in zip(self._paths(), states[:, 0].tolist(), strict=True) if state >= 0)
            while some := list(islice(paths, _AT_ONCE)):
                rows = list(islice(wanted, len(some)))
                digests[rows] = np.frombuffer(bytes.fromhex("".join(file_digests(some))), np.uint8).reshape(-1, 32)
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
            numbers, chosen = np.zeros(self.count, np.int32), set(wanted.tolist())
            for place, path in enumerate(self._paths()):
                if place in chosen:
                    numbers[place] = num_audio_tokens(audio_info(Path(path)).num_samples_16k)
            return {"num_codes": numbers}

        return remembered(facts, make)["num_codes"]

    def _paths(self) -> Iterator[str]:
        # A Path for each of a million recordings would take longer than looking them up.
        return (os.path.join(self.root, name) if name else "" for name in self.names)  # noqa: PTH118


def hash_of(values: np.ndarray) -> str:
    """sha256 of an array's values."""
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


def _hash(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(b"%d " % len(part) + part)
    return digest.hexdigest()


def _state(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)  # noqa: PTH116
    except (OSError, ValueError):  # not there, or a name that no file can have
        return -1, -1
    return (status.st_size, status.st_mtime_ns) if S_ISREG(status.st_mode) else (-1, -1)
