"""Curves of a trial as one table, ``metrics.csv``, for people without W&B."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kimi_audio_ft.tracking.base import Utterance

FILE_NAME = "metrics.csv"


class CsvRun:
    """Writes ``metrics.csv`` in ``folder``: a row per ``log`` call, a column ``step`` and one per metric.

    The file is complete after every call, so that a running or killed trial can be looked at. A table left by an
    earlier attempt at the same trial is replaced. Scores and transcripts are in the trial's own files.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE_NAME
        self._columns: list[str] = []
        self._rows: list[dict[str, float]] = []

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Add a row; the first appearance of a metric adds its column, left empty in the rows before."""
        row: dict[str, float] = {"step": step, **metrics}
        self._rows.append(row)
        new = [name for name in row if name not in self._columns]
        if new:
            self._columns += new
            self._write_all()
        else:
            with self._path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._columns).writerow(row)

    def finish(self, summary: Mapping[str, Any], utterances: Sequence[Utterance]) -> None:
        """Nothing is left to write."""

    def fail(self, message: str) -> None:
        """Nothing is left to write; the trial's ``failure.json`` holds the message."""

    def _write_all(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        aside = self._path.with_name(f".{FILE_NAME}.{os.getpid()}")
        with aside.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(self._rows)
        aside.replace(self._path)
