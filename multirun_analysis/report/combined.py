"""Combinations of a sweep's trials and their comparison with one of these, for the leaderboard; read from where
``python -m kimi_audio_ft.combine`` leaves them, or made of what there is (``stored_combinations``)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from kimi_audio_ft.errors import DataError
from kimi_audio_ft.files import read_json_object
from kimi_audio_ft.sweep_folder import COMBINATIONS_RECORD
from multirun_analysis.analysis import Analysis
from multirun_analysis.messages import Messages
from multirun_analysis.records import finite
from multirun_analysis.statistics.results import Interval
from multirun_analysis.sweep import Trial, read_scored
from multirun_analysis.words import percent, rate

log = logging.getLogger(__name__)

# Of the record: raise it when the code changes what is made or kept of it.
VERSION = 2
SCORES = "scores.json"
# Its part that says what the combinations were made of, which ``combine`` compares too.
MADE_OF = "made_of"
_AGAIN = "Remove the folder, and run python -m kimi_audio_ft.combine again"


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

    @property
    def is_shown(self) -> bool:
        """Whether it is shown to be better than the single trial: the whole interval says so."""
        return self.interval is not None and self.interval.high < 0

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
    is_best: bool = False
    is_single: bool = False


@dataclass(frozen=True)
class Combinations:
    """All that one call has made.

    folder: None of those that the report makes by itself. facts: ``facts_of`` the trials combined, by name. trial,
    rate: the best of them. chosen: name of the combination that is better, None without one. tested: None without a
    test set that the sweep's choice was decoded on. scores: of the texts of every row, as those of a trial.
    """

    folder: Path | None
    rank_by: str
    facts: dict[str, Any]
    trial: str
    rate: float
    rows: list[Combined]
    chosen: str | None
    tested: Tested | None
    scores: list[Trial] = field(default_factory=list, compare=False, repr=False)

    @property
    def scored(self) -> list[tuple[Combined, Trial]]:
        """Each with its scores."""
        return list(zip(self.rows, self.scores, strict=True))

    def lines(self, say: Messages) -> list[Line]:
        """The rows of a table, the lowest rate first, with the single trial among them."""
        single = Line(say("combined.single", trial=self.trial), rate(self.rate), "", "", "1", is_single=True)
        best = self._chosen if self._chosen and self._chosen.is_shown else None
        combined = [
            (
                row.rate,
                Line(row.title(say), rate(row.rate), _points(row), _p(row), str(row.decodings), row is best),
            )
            for row in self.rows
        ]
        return [line for _, line in sorted([(self.rate, single), *combined], key=lambda one: one[0])]

    @property
    def _chosen(self) -> Combined | None:
        return next((row for row in self.rows if row.name == self.chosen), None)

    def note(self, say: Messages) -> str:
        """What they are made of, and how they were compared."""
        return say("combined.note_stored" if self.folder is None else "combined.note", trial=self.trial)

    def verdict(self, say: Messages) -> str:
        """Whether any is better than the single trial, in one sentence; one more says if that was not confirmed."""
        chosen = self._chosen
        if chosen is None:
            return say("combined.none_shown", trial=self.trial)
        key = "combined.shown" if chosen.is_shown else "combined.not_shown"
        said = say(key, name=chosen.title(say), trial=self.trial)
        return said if self.folder else f"{said} {say('combined.unconfirmed')}"

    def told(self, say: Messages) -> str | None:
        """The result on the test set in one sentence; None without one."""
        found, chosen = self.tested, self._chosen
        if found is None or chosen is None:
            return None
        figures = {"cer": percent(found.rate), "trial": found.trial, "single": percent(found.single)}
        interval = "" if found.interval is None else say("unseen.interval", interval=_around(found.interval))
        name, difference = chosen.title(say), f"{100 * found.difference:+.2f}"
        return say("combined.tested", name=name, difference=difference, interval=interval, **figures)


def read_combinations(folder: Path) -> Combinations:
    """Of a folder of combinations; DataError: its record or a score cannot be read, or it is of another version."""
    path = folder / Path(COMBINATIONS_RECORD).name
    record = finite(read_json_object(path, _AGAIN))
    try:
        made_of = record[MADE_OF]
        if made_of["version"] != VERSION:
            raise TypeError(f"its version is {made_of['version']!r}, not {VERSION}")
        rows = [Combined(**_with_interval(row)) for row in record["combinations"]]
        tested = Tested(**_with_interval(record["test"])) if record["test"] else None
        best = record["best"]
        figures = [best["rate"], *([tested.single] if tested else [])]
        compared: list[Combined | Tested] = [*rows, *([tested] if tested else [])]
        for one in compared:
            figures += [one.rate, one.difference, *(astuple(one.interval) if one.interval else ())]
        if not all(isinstance(figure, int | float) for figure in figures):
            raise TypeError("a rate or a difference is no number")
        trials, ranked, chosen = dict(made_of["trials"]), made_of["rank_by"], record["chosen"]
        scores = [replace(_scores(folder / row.name), rank_by=ranked) for row in rows]
        return Combinations(folder, ranked, trials, best["trial"], best["rate"], rows, chosen, tested, scores)
    except (KeyError, TypeError, ValueError) as error:
        problem = f"is no record of combinations of this version ({error!r})"
        raise DataError(path, problem, _AGAIN) from None


def combinations_of(analysis: Analysis) -> Combinations | None:
    """Those that the command has left in a sweep's folder; None where there are none, where trials are others, or
    scored or ranked otherwise, by now, and, with a warning, where their record cannot be read."""
    path = analysis.sweep.folder / COMBINATIONS_RECORD
    if not path.is_file():
        return None
    try:
        found = read_combinations(path.parent)
    except DataError as error:
        _warn(str(error))
        return None
    now = {trial.name: facts_of(trial) for trial in analysis.sweep.finished}
    same = all(now.get(name) == one for name, one in found.facts.items())
    return found if same and found.rank_by == analysis.rank_by else None


def facts_of(trial: Trial) -> dict[str, Any]:
    """What combinations of a trial, and their comparison with it, depend on: JSON values."""
    named = ("signature", "transcript_signatures", "normalisation_version", "normalisation", "word_lists")
    return {"rate": trial.rate, **{name: trial.record.get(name) for name in named}}


@lru_cache
def _warn(text: str) -> None:
    """Once: the page and the terminal ask one after the other."""
    log.warning("%s", text)


def _scores(folder: Path) -> Trial:
    return read_scored(folder, folder / SCORES, {}, is_base=False)


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
