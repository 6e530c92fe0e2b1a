"""A trial's record: the interface, which records nothing, and a CSV table."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kimi_audio_ft.files import written_aside

Utterance = Mapping[str, Any]
"""One line of ``utterances.jsonl``: id, repeat, reference, hypothesis, cer and audio (a path, or None)."""


RUNG = "halving/rung"
"""Number of the rung, counted from 1, whose values a point has under successive halving."""


def metrics_of(row: Mapping[str, Any]) -> dict[str, float]:
    """Values to record of a point of the learning curves."""
    metrics = {"epoch": row["epoch"], f"{row['split']}/loss": row["loss"]}
    figures = {
        f"train/{name}": row.get(name) for name in ("lr", "grad_norm")
    }  # curves of earlier versions have no norm
    return metrics | {name: value for name, value in figures.items() if value is not None}


class Tracker:
    """One trial's record: points while it runs, then either ``finish`` or ``fail``. This one keeps nothing.

    A record that is closed stays as it is: ``fail`` after ``finish`` does nothing. shows_utterances: whether ``finish``
    needs them.
    """

    shows_utterances: bool = False

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record values, such as ``train/loss``, at an optimizer step; steps may repeat or start again."""

    def belongs_to(self, folder: Path) -> None:
        """Record which trial's folder this is the record of, where it was opened before that was known."""

    def keep_adapter(self, folder: Path, signature: str) -> None:
        """Record the trained adapter, where the record's options ask for it."""

    def finish(self, summary: Mapping[str, Any], utterances: Sequence[Utterance]) -> None:
        """Record the final scores and the transcripts, and close the record."""

    def fail(self, message: str) -> None:
        """Close the record of a trial that broke, with the reason."""


class NewPoints:
    """Tells new points of curves from repeated ones: a resumed training, and an adapter that is reused, give all again.

    logged: the last step of each metric.
    """

    def __init__(self) -> None:
        self.logged: dict[str, int] = {}

    def of(self, metrics: Mapping[str, float], step: int) -> dict[str, float]:
        """Those of the metrics that have no value at this step yet."""
        new = {name: value for name, value in metrics.items() if step > self.logged.get(name, -1)}
        self.logged.update(dict.fromkeys(new, step))
        return new


class CsvRun(Tracker):
    """Writes ``metrics.csv`` in ``folder``: a row per ``log`` call, a column ``step`` and one per metric.

    The file is complete after every call. A table of an earlier attempt at the trial is replaced.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "metrics.csv"
        self._columns: list[str] = []
        self._rows: list[dict[str, float]] = []

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Add a row; the first appearance of a metric adds its column, left empty in the rows before."""
        row: dict[str, float] = {"step": step, **metrics}
        self._rows.append(row)
        new = [name for name in row if name not in self._columns]
        if new:
            self._columns += new
            with written_aside(self._path) as draft, draft.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, self._columns)
                writer.writeheader()
                writer.writerows(self._rows)
        else:
            with self._path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._columns).writerow(row)
