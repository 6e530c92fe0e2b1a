"""Keeping a terminal's lines apart from a table that is drawn there again and again.

Hydra makes new logging handlers for every job, libraries hold on to old ones, and child processes write to the terminal
themselves. All of it goes through the file descriptors 1 and 2, so that is where it is caught.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from typing import Any

_STANDARD = (1, 2)
# Seconds to wait at the end for what has been written; a child that lives on keeps the pipe open.
_PATIENCE = 0.5


class CapturedTerminal:
    """While it is open, every line that this process and its children write to the terminal goes to ``on_line``.

    ``terminal`` is a descriptor of the terminal itself. A standard output or error that goes elsewhere is left alone.
    A child that outlives this goes on being read.
    """

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        self.terminal = os.dup(sys.stdout.fileno())
        self._kept: dict[int, int] = {}
        self._reader: threading.Thread | None = None

    def __enter__(self) -> CapturedTerminal:
        _flush()
        reading, writing = os.pipe()
        self._kept = {number: os.dup(number) for number in _STANDARD if os.isatty(number)}
        for number in self._kept:
            os.dup2(writing, number)
        os.close(writing)
        self._reader = threading.Thread(target=self._read, args=(reading,), daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *error: Any) -> None:
        _flush()
        for number, kept in self._kept.items():
            os.dup2(kept, number)
            os.close(kept)
        assert self._reader is not None
        self._reader.join(_PATIENCE)

    def _read(self, descriptor: int) -> None:
        with os.fdopen(descriptor, encoding="utf-8", errors="replace", newline="\n") as lines:
            for line in lines:
                # A progress bar draws over itself; its last state is what counts.
                self._on_line(line.rstrip("\r\n").rsplit("\r", 1)[-1])


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
