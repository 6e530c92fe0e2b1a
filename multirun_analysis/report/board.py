"""The leaderboard as the page shows it: places and bars of every row, and what it can be filtered by."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from multirun_analysis.compare import Comparison, Row
from multirun_analysis.messages import ENGLISH, Messages
from multirun_analysis.params import is_of_base, value_of
from multirun_analysis.statistics import Interval, Spread, key_of
from multirun_analysis.sweep import Trial
from multirun_analysis.words import shown, trial_title

MOST_CHOICES = 12  # values of a parameter that can be chosen from; of more, the text filter finds one
BASE_ROOM = 1.6  # a base that is worse than this times the worst trial does not stretch the bars' scale


@dataclass(frozen=True)
class Bar:
    """A CER and its interval as shares (0 to 100) of the track; ``beyond`` when the track ends before it."""

    fill: float
    low: float | None
    width: float | None
    beyond: bool


@dataclass(frozen=True)
class BoardRow:
    """One line: the compared row, its interval and spread, and where it stands in the verdict."""

    row: Row
    interval: Interval | None
    spread: Spread | None
    bar: Bar
    is_best: bool
    is_alike: bool
    is_recommended: bool

    @property
    def trial(self) -> Trial:
        return self.row.trial


class Board:
    """All rows, best first."""

    def __init__(self, comparison: Comparison, say: Messages = ENGLISH) -> None:
        self.comparison, self.say = comparison, say

    @cached_property
    def rows(self) -> list[BoardRow]:
        return [self._row(row) for row in self.comparison.rows]

    @property
    def has_repeats(self) -> bool:
        return any(row.spread and row.spread.repeats > 1 for row in self.rows)

    @property
    def has_intervals(self) -> bool:
        return any(row.interval for row in self.rows)

    @property
    def has_alike(self) -> bool:
        return any(row.is_alike for row in self.rows)

    @cached_property
    def filters(self) -> list[tuple[str, list[str]]]:
        """Swept parameters with few enough values, and these values as written."""
        params = [(param, self.comparison.distinct(param)) for param in self.comparison.charted]
        return [
            (param, [shown(param, value, self.say) for value in values])
            for param, values in params
            if len(values) <= MOST_CHOICES
        ]

    def value(self, trial: Trial, param: str) -> str | None:
        """A cell; a base has none for what it was not trained with."""
        if trial.is_base and not is_of_base(param):
            return None
        return shown(param, value_of(trial, param), self.say)

    def values(self, trial: Trial) -> str:
        """The filtered parameters' values as JSON; of a base only those that it has."""
        found = {param: self.value(trial, param) for param, _ in self.filters}
        return json.dumps({param: value for param, value in found.items() if value is not None})

    @cached_property
    def _top(self) -> float:
        """CER at the end of the track."""
        statistics = self.comparison.statistics
        trials = self.comparison.sweep.finished
        highs = [interval.high for trial in trials if (interval := statistics.interval_of(trial))]
        worst = max([*highs, *(trial.cer for trial in trials)])
        base = max((base.cer for base in self.comparison.sweep.baselines), default=0.0)
        return max(worst, base if base <= BASE_ROOM * worst else 0.0) or 1.0

    def _row(self, row: Row) -> BoardRow:
        statistics, trial = self.comparison.statistics, row.trial
        interval = statistics.interval_of(trial)
        is_best = row is self.comparison.best
        return BoardRow(
            row=row,
            interval=interval,
            spread=statistics.spreads.get(key_of(trial)),
            bar=self._bar(trial.cer, interval),
            is_best=is_best,
            is_alike=not is_best and any(trial is one for one in statistics.best_group),
            is_recommended=trial is statistics.recommended and len(self.comparison.sweep.finished) > 1,
        )

    def _bar(self, cer: float, interval: Interval | None) -> Bar:
        place = {edge: 100 * min(1.0, rate / self._top) for edge, rate in self._edges(cer, interval).items()}
        is_drawn = interval is not None and place["low"] < 100
        width = place["high"] - place["low"] if is_drawn else None
        return Bar(place["cer"], place["low"] if is_drawn else None, width, cer > self._top)

    @staticmethod
    def _edges(cer: float, interval: Interval | None) -> dict[str, float]:
        return {"cer": cer} | ({"low": interval.low, "high": interval.high} if interval else {})


# --- The user's terms (``scoring.terms``): how well every trial heard each of them.

# What the page holds at most; trials.json has all.
MOST_TERMS = 500
MOST_FIGURES = 60_000

Figures = list[float | None]


@dataclass(frozen=True)
class TermColumn:
    """What one trial or base made of the terms: recall and precision in percent, None without any occurrence."""

    title: str
    trial: Trial
    recall: Figures
    precision: Figures


@dataclass(frozen=True)
class TermTable:
    """Terms, the most frequent ones first, and the trials of the leaderboard in its order.

    spoken: times in the references, of one decoding. first, second: places in ``columns`` of what is shown at first:
    the best trial and the base (without one, the next trial; alone, itself). more_terms, more_trials: what is left out.
    """

    terms: list[str]
    spoken: list[float]
    columns: list[TermColumn]
    first: int
    second: int
    more_terms: int
    more_trials: int

    @property
    def figures(self) -> list[tuple[Figures, Figures]]:
        """Recalls and precisions of every column."""
        return [(column.recall, column.precision) for column in self.columns]


def term_table(comparison: Comparison, say: Messages) -> TermTable | None:
    """The table of a sweep with a list of terms; None for any other."""
    found = [row.trial for row in comparison.rows if terms_of(row.trial)]
    best = comparison.best.trial
    if not found or not terms_of(best):
        return None
    counts = terms_of(best)
    terms = sorted(counts, key=lambda term: -counts[term]["in_references"])[:MOST_TERMS]
    base = comparison.best.base or comparison.lowest_base
    most = max(2, MOST_FIGURES // (2 * len(terms)))
    shown = [trial for place, trial in enumerate(found) if place < most or trial is best or trial is base]
    first = next(place for place, trial in enumerate(shown) if trial is best)
    others = [place for place in range(len(shown)) if place != first]
    second = next((place for place in others if shown[place] is base), (others or [first])[0])
    repeats = len(best.record.get("cer_repeats") or [0])
    return TermTable(
        terms=terms,
        spoken=[counts[term]["in_references"] / repeats for term in terms],
        columns=[_column(trial, terms, comparison, say) for trial in shown],
        first=first,
        second=second,
        more_terms=len(counts) - len(terms),
        more_trials=len(found) - len(shown),
    )


def terms_of(trial: Trial) -> dict[str, dict[str, Any]]:
    """A trial's terms as scores.json has them; empty without a list of terms."""
    return trial.record.get("terms") or {}


def _column(trial: Trial, terms: list[str], comparison: Comparison, say: Messages) -> TermColumn:
    found = terms_of(trial)
    recall, precision = ([_percent(found.get(term, {}).get(key)) for term in terms] for key in ("recall", "precision"))
    return TermColumn(trial_title(trial, comparison.swept, say), trial, recall, precision)


def _percent(fraction: float | None) -> float | None:
    return None if fraction is None else round(100 * fraction, 1)
