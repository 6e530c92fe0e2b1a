"""Combinations of a sweep's trials, as ``python -m kimi_audio_ft.combine`` leaves them, for the leaderboard."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kimi_audio_ft.errors import DataError
from kimi_audio_ft.sweep_folder import COMBINATIONS, COMBINATIONS_RECORD
from multirun_analysis.analysis import Analysis
from multirun_analysis.messages import Messages
from multirun_analysis.records import finite, read_json
from multirun_analysis.statistics.results import Interval
from multirun_analysis.words import percent, rate

_AGAIN = "Run python -m kimi_audio_ft.combine again"


@dataclass(frozen=True)
class Combined:
    """A combination, and its rate less that of the best single trial among those combined; fractions.

    name: its folder. kind: "samples" of a trial or texts of "trials", both by minimum Bayes risk, or the "mean" of
    adapters. trials: that it is made of, the best first. decodings: how often an utterance is decoded in use, by how
    many adapters. interval: of the difference, at 95 %. p_adjusted: of both being equal, adjusted for all combinations;
    both None with too few recordings. temperature: of samples that the sweep had not decoded. rank, kept: of the mean,
    and the part of its update for which that rank has room.
    """

    name: str
    kind: str
    trials: list[str]
    decodings: int
    adapters: int
    rate: float
    difference: float
    interval: Interval | None
    p_adjusted: float | None
    temperature: float | None = None
    rank: int | None = None
    kept: float | None = None

    def title(self, say: Messages) -> str:
        """What it is, in words."""
        named = ", ".join(self.trials)
        if self.kind == "samples":
            at = "" if self.temperature is None else say("combined.at", temperature=f"{self.temperature:g}")
            return say("combined.samples", n=self.decodings, trial=named, at=at)
        if self.kind == "trials":
            return say("combined.trials", trials=named)
        cut = "" if self.kept is None or self.kept >= 1 else say("combined.kept", share=percent(self.kept))
        return say("combined.mean", trials=named, rank=self.rank, cut=cut)


@dataclass(frozen=True)
class Tested:
    """The chosen combination on the test set, against the sweep's own choice there.

    trial, single: name and rate of that choice. looks: how many different results of the set were ever shown.
    """

    manifest: str
    trial: str
    single: float
    rate: float
    difference: float
    interval: Interval | None
    looks: int


@dataclass(frozen=True)
class Line:
    """A row of the table, as it is written."""

    title: str
    rate: str
    points: str
    p: str
    decodings: str
    is_chosen: bool = False
    is_single: bool = False


@dataclass(frozen=True)
class Combinations:
    """All that one call has made. trial, rate: the best of the trials combined. chosen: name of the best combination,
    None where none has a lower rate than that trial. tested: None without a test set that the sweep's choice was
    decoded on."""

    folder: Path
    rank_by: str
    trial: str
    rate: float
    rows: list[Combined]
    chosen: str | None
    tested: Tested | None

    def lines(self, say: Messages) -> list[Line]:
        """The rows of a table, the lowest rate first, with the single trial among them."""
        single = Line(say("combined.single", trial=self.trial), rate(self.rate), "", "", "1", is_single=True)
        combined = [
            (
                row.rate,
                Line(
                    row.title(say), rate(row.rate), _points(row), _p(row), str(row.decodings), row.name == self.chosen
                ),
            )
            for row in self.rows
        ]
        return [line for _, line in sorted([(self.rate, single), *combined], key=lambda one: one[0])]

    def told(self, say: Messages) -> str | None:
        """The result on the test set in one sentence; None without one."""
        found = self.tested
        chosen = next((row for row in self.rows if row.name == self.chosen), None)
        if found is None or chosen is None:
            return None
        figures = {"cer": percent(found.rate), "trial": found.trial, "single": percent(found.single)}
        interval = "" if found.interval is None else say("unseen.interval", interval=_around(found.interval))
        name, difference = chosen.title(say), f"{100 * found.difference:+.2f}"
        return say("combined.tested", name=name, difference=difference, interval=interval, **figures)


def read_combinations(folder: Path) -> Combinations:
    """Of a folder of combinations; DataError: its record cannot be read."""
    path = folder / Path(COMBINATIONS_RECORD).name
    record = finite(read_json(path))
    try:
        rows = [Combined(**_with_interval(row)) for row in record["combinations"]]
        tested = Tested(**_with_interval(record["test"])) if record["test"] else None
        best = record["best"]
        return Combinations(folder, record["rank_by"], best["trial"], best["rate"], rows, record["chosen"], tested)
    except (KeyError, TypeError) as error:
        raise DataError(path, f"is no record of combinations ({error!r})", _AGAIN) from None


def combinations_of(analysis: Analysis) -> Combinations | None:
    """Those in a sweep's folder; None where there are none, or trials were replaced or are ranked by another rate."""
    folder = analysis.sweep.folder
    path = folder / COMBINATIONS_RECORD
    if not path.is_file():
        return None
    found, decoded = read_combinations(folder / COMBINATIONS), read_json(path).get("transcripts")
    now = {trial.name: trial.record.get("transcript_signatures") for trial in analysis.sweep.finished}
    same = isinstance(decoded, Mapping) and all(now.get(name) == one for name, one in decoded.items())
    return found if same and found.rank_by == analysis.rank_by else None


def _with_interval(row: Mapping[str, Any]) -> dict[str, Any]:
    interval = row["interval"]
    return {**row, "interval": None if interval is None else Interval(**interval)}


def _points(row: Combined) -> str:
    points = f"{100 * row.difference:+.2f}"
    return points if row.interval is None else f"{points} [{_around(row.interval)}]"


def _p(row: Combined) -> str:
    return "" if row.p_adjusted is None else f"{row.p_adjusted:.3f}"


def _around(interval: Interval) -> str:
    return f"{100 * interval.low:+.2f} … {100 * interval.high:+.2f}"
