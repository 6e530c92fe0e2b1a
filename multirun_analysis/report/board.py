"""The tables of the page: the leaderboard with its bars and filters, the CER of each evaluation set, and the user's
terms (``scoring.terms``)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from statistics import mean, stdev
from typing import Any, ClassVar

from multirun_analysis.analysis import Analysis
from multirun_analysis.charts.short_values import short_values
from multirun_analysis.compare import Row
from multirun_analysis.messages import ENGLISH, Messages
from multirun_analysis.params import identity, is_of_base, value_of
from multirun_analysis.report.combined import Combined
from multirun_analysis.report.stored_combinations import combinations_shown
from multirun_analysis.settings import Setting
from multirun_analysis.statistics.results import Interval
from multirun_analysis.sweep import HalvedAdapter, Scores, Trial
from multirun_analysis.words import shown

MOST_CHOICES = 12  # values of a parameter that can be chosen from; of more, the text filter finds one
BASE_ROOM = 1.6  # a base that is worse than this times the worst trial does not stretch the bars' scale
MOST_NAMED = 5  # characters: the heading of trials' names takes as many
MOST_ROWS = 100  # of the table of evaluation sets
MOST_TERMS, MOST_FIGURES = 500, 60_000  # of the table of terms on the page; trials.json has all

Figures = list[float | None]


@dataclass(frozen=True)
class Bar:
    """An error rate and its interval as shares (0 to 100) of the track; ``beyond`` when the track ends before it."""

    fill: float
    low: float | None
    width: float | None
    beyond: bool


@dataclass(frozen=True)
class BoardRow:
    """A row of the leaderboard with its interval and bar, and its part in the recommendation."""

    row: Row
    setting: Setting
    scores: Scores
    normalised_cer: float | None
    gain: float | None
    interval: Interval | None
    bar: Bar
    is_best: bool
    is_alike: bool
    is_recommended: bool
    combined: ClassVar[None] = None

    @property
    def trial(self) -> Trial:
        return self.row.trial

    @property
    def spread(self) -> float | None:
        """Standard deviation of the CER over the repeats of sampling; None of greedy decoding, which is done once."""
        spreads = [stdev(trial.repeats) for trial in self.setting.trials if len(trial.repeats) > 1]
        return mean(spreads) if spreads else None

    @property
    def repeats(self) -> list[float]:
        """The CERs of all repeats of sampling."""
        return [rate for trial in self.setting.trials for rate in trial.repeats]

    def rate_by(self, rank_by: str) -> float | None:
        """As ``Trial.rate_by``."""
        if rank_by == "normalised_cer":
            return self.normalised_cer
        rate: float | None = getattr(self.scores, rank_by)
        return rate

    @property
    def names(self) -> str:
        """Its trials' names as JSON."""
        return json.dumps([] if self.setting.is_base else [trial.name for trial in self.setting.trials])


@dataclass(frozen=True)
class CombinedRow:
    """A combination of trials in its place in the leaderboard; ``trial`` has the scores of its texts.

    values: of the filtered parameters that all its trials have in common, as JSON.
    """

    combined: Combined
    trial: Trial
    gain: float | None
    interval: Interval | None
    bar: Bar
    is_best: bool
    values: str

    @property
    def rate(self) -> float:
        return self.trial.rate

    @property
    def scores(self) -> Scores:
        assert self.trial.strict is not None, "it was read with its scores"
        return self.trial.strict

    @property
    def short(self) -> str:
        """Its trials and its cost, for a terminal: 20x16 is one trial's, decoded 16 times."""
        named = "+".join(self.combined.trials)
        if self.combined.kind == "samples":
            return f"{named}x{self.combined.decodings}"
        return named if len(named) <= MOST_NAMED else f"of {len(self.combined.trials)}"


@dataclass(frozen=True)
class StoppedRow:
    """An adapter that was not trained to its end: its settings, and its rate where it was stopped (None: unknown)."""

    adapter: HalvedAdapter
    values: list[str]
    rate: float | None


class Board:
    """A row for each setting, best first; its figures are means over its seeds."""

    def __init__(self, analysis: Analysis, say: Messages = ENGLISH) -> None:
        self.analysis, self.say = analysis, say

    @cached_property
    def rows(self) -> list[BoardRow]:
        return [self._row(row) for row in self.analysis.rows if row.trial is row.setting.trial]

    @cached_property
    def lines(self) -> list[BoardRow | CombinedRow]:
        """The rows with combinations of trials among them, each where its rate puts it."""
        lines: list[BoardRow | CombinedRow] = list(self.rows)
        for one in self.combined:
            later = (place for place, line in enumerate(lines) if _rate_of(line) > one.rate)
            lines.insert(next(later, len(lines)), one)
        return lines

    @cached_property
    def combined(self) -> list[CombinedRow]:
        """Combinations of the sweep's trials, if there are any."""
        found = combinations_shown(self.analysis)
        if found is None:
            return []
        trials = [row for row in self.analysis.rows if not row.trial.is_base]  # a base is named as one of them
        single = next(row.setting for row in trials if row.trial.name == found.trial)
        base = next((row.base for row in trials if row.setting is single), None)
        return [
            self._combined(row, trial, base, row.name == found.chosen and row.is_shown) for row, trial in found.scored
        ]

    @property
    def best(self) -> BoardRow:
        return next(row for row in self.rows if row.is_best)

    @property
    def stopped(self) -> list[StoppedRow]:
        """Adapters that successive halving stopped, or that failed in it."""
        sweep = self.analysis.sweep
        is_rate = sweep.halving is not None and sweep.halving.metric == self.analysis.rank_by
        return [StoppedRow(one, self._trained(trial), one.score if is_rate else None) for one, trial in sweep.stopped]

    def _trained(self, trial: Trial) -> list[str]:
        """Settings of the training: its trials would have decoded in several ways."""
        params = self.analysis.naming
        return ["–" if param.startswith("decoding.") else self.value(trial, param) or "–" for param in params]

    @property
    def others(self) -> list[tuple[str, int]]:
        """Error rates beside the one that ranks, and the digits that they are shown with."""
        digits = {"cer": 2, "normalised_cer": 2, "wer": 1, "mer": 1}
        return [(name, shown) for name, shown in digits.items() if name != self.analysis.rank_by]

    @cached_property
    def faults(self) -> list[str]:
        """Kinds of outputs to look into that some trial or base has: empty ones, and those that were cut off."""
        return [
            name for name in ("empty", "truncated") if any(getattr(row.scores, f"{name}_outputs") for row in self.rows)
        ]

    @property
    def has_intervals(self) -> bool:
        return any(row.interval for row in self.rows)

    @cached_property
    def filters(self) -> list[tuple[str, dict[str, str]]]:
        """Swept parameters with few enough values, and these values' labels by their keys."""
        values = {
            param: self.analysis.distinct(param) for param in self.analysis.charted if param in self.analysis.naming
        }
        few = [param for param in values if len(values[param]) <= MOST_CHOICES]
        return [(param, {_key(value): self._label(param, value) for value in values[param]}) for param in few]

    def value(self, trial: Trial, param: str) -> str | None:
        """A cell; a base has none for what it was not trained with."""
        if trial.is_base and not is_of_base(param):
            return None
        return self._label(param, value_of(trial, param))

    def whole(self, trial: Trial, param: str) -> str | None:
        """A cell's value where only what tells it apart is shown."""
        cell, whole = self.value(trial, param), shown(param, value_of(trial, param), self.say)
        return None if cell in (None, whole) else whole

    def _label(self, param: str, value: Any) -> str:
        return self._labels[param].get(identity(value)) or shown(param, value, self.say)

    @cached_property
    def _labels(self) -> dict[str, dict[str, str]]:
        """Of every column's values by their identity."""
        return {param: short_values(param, self.analysis.distinct(param), self.say) for param in self.analysis.naming}

    def values(self, trial: Trial) -> str:
        """The keys of the filtered parameters' values as JSON; of a base only those that it has."""
        params = [param for param, _ in self.filters if is_of_base(param) or not trial.is_base]
        return json.dumps({param: _key(value_of(trial, param)) for param in params})

    @cached_property
    def _top(self) -> float:
        """The rate at the end of the track."""
        statistics = self.analysis.statistics
        settings = [setting for setting in self.analysis.settings if not setting.is_base]
        intervals = [statistics.setting_intervals.get(setting.trial) for setting in settings]
        worst = max([*(one.high for one in intervals if one), *(setting.rate for setting in settings)])
        base = max((base.rate for base in self.analysis.sweep.baselines), default=0.0)
        return max(worst, base if base <= BASE_ROOM * worst else 0.0) or 1.0

    def _row(self, row: Row) -> BoardRow:
        statistics, trial, setting = self.analysis.statistics, row.trial, row.setting
        interval = statistics.setting_intervals.get(trial)
        is_best = setting is self.analysis.best.setting
        normalised = [one.normalised.cer for one in setting.trials if one.normalised]
        return BoardRow(
            row=row,
            setting=setting,
            scores=mean_scores([one.strict for one in setting.trials if one.strict]),
            normalised_cer=mean(normalised) if len(normalised) == len(setting.trials) else None,
            gain=self.analysis.gain(setting),
            interval=interval,
            bar=self._bar(setting.rate, interval),
            is_best=is_best,
            is_alike=not is_best and trial in statistics.best_group,
            is_recommended=trial is statistics.recommended and len(self.analysis.sweep.finished) > 1,
        )

    def _combined(self, row: Combined, trial: Trial, base: Trial | None, is_best: bool) -> CombinedRow:
        low, high = trial.record.get("cer_ci_low"), trial.record.get("cer_ci_high")
        interval = None
        if self.analysis.rank_by == "cer" and low is not None and high is not None:
            interval = Interval(low, high)
        gain = 1 - trial.rate / base.rate if base is not None and base.rate > 0 else None
        bar = self._bar(trial.rate, interval)
        return CombinedRow(row, trial, gain, interval, bar, is_best, self._shared_values(row))

    def _shared_values(self, row: Combined) -> str:
        """Without those of the decoding where it samples anew."""
        found = [json.loads(self.values(one)) for one in self.analysis.sweep.finished if one.name in row.trials]
        same = {key: value for key, value in found[0].items() if all(other.get(key) == value for other in found)}
        anew = row.temperature is not None
        return json.dumps({key: value for key, value in same.items() if not (anew and key.startswith("decoding."))})

    def _bar(self, rate: float, interval: Interval | None) -> Bar:
        low, high = (self._share(interval.low), self._share(interval.high)) if interval else (100, 100)
        left, width = (low, high - low) if low < 100 else (None, None)
        return Bar(self._share(rate), left, width, rate > self._top)

    def _share(self, rate: float) -> float:
        """Of the track, 0 to 100."""
        return 100 * min(1.0, rate / self._top)


def _key(value: Any) -> str:
    """A value in the page's address: the same in any language and beside any other values."""
    return identity(value).removesuffix(".0")


def _rate_of(line: BoardRow | CombinedRow) -> float:
    return line.rate if isinstance(line, CombinedRow) else line.setting.rate


def mean_scores(scores: list[Scores]) -> Scores:
    """Of several trials; unknown where one's is."""
    found: dict[str, list[Any]] = {name: [getattr(one, name) for one in scores] for name in Scores.__dataclass_fields__}
    means: dict[str, Any] = {name: None if None in values else mean(values) for name, values in found.items()}
    return Scores(**means)


@dataclass(frozen=True)
class SetTable:
    """CER of each evaluation set under the trials of the leaderboard, in its order.

    names: of the sets, with their numbers of references. more: trials that are left out.
    """

    names: dict[str, int]
    trials: list[Trial]
    more: int


def set_table(analysis: Analysis) -> SetTable | None:
    """The table of a sweep with several evaluation sets; None for any other."""
    found = [row.trial for row in analysis.rows if row.trial.sets]
    names = {name: one["num_references"] for name, one in analysis.best.trial.sets.items()}
    return SetTable(names, found[:MOST_ROWS], max(0, len(found) - MOST_ROWS)) if names else None


@dataclass(frozen=True)
class TermTable:
    """Terms, the most frequent ones first, and the trials of the leaderboard in its order.

    spoken: times in the references, of one decoding. figures: recalls and precisions of the terms under each trial, in
    percent; None without any occurrence. first, second: the two of ``trials`` shown at first: the best and the base
    (without one, the next; alone, itself). more_terms, more_trials: what is left out.
    """

    terms: list[str]
    spoken: list[float]
    trials: list[Trial]
    figures: list[tuple[Figures, Figures]]
    first: int
    second: int
    more_terms: int
    more_trials: int


def term_table(analysis: Analysis) -> TermTable | None:
    """The table of a sweep with a list of terms; None for any other."""
    found = [row.trial for row in analysis.rows if row.trial.terms]
    best = analysis.best.trial
    if not found or not best.terms:
        return None
    counts = best.terms
    terms = sorted(counts, key=lambda term: -counts[term]["in_references"])[:MOST_TERMS]
    base = analysis.best.base or analysis.lowest_base
    most = max(2, MOST_FIGURES // (2 * len(terms)))
    shown = [trial for place, trial in enumerate(found) if place < most or trial in (best, base)]
    second = base if base in shown else next((trial for trial in shown if trial is not best), best)
    repeats = len(best.record.get("cer_repeats") or [0])
    return TermTable(
        terms=terms,
        spoken=[counts[term]["in_references"] / repeats for term in terms],
        trials=shown,
        figures=[(_figures(trial, terms, "recall"), _figures(trial, terms, "precision")) for trial in shown],
        first=shown.index(best),
        second=shown.index(second),
        more_terms=len(counts) - len(terms),
        more_trials=len(found) - len(shown),
    )


def _figures(trial: Trial, terms: list[str], key: str) -> Figures:
    fractions = [trial.terms.get(term, {}).get(key) for term in terms]
    return [None if fraction is None else round(100 * fraction, 1) for fraction in fractions]
