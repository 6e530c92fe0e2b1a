"""Learning curves of a study over training-set sizes (``data.train_subset``): what more data would bring.

One curve for every setting of the other swept parameters: a power law through the error rates at each size, and its
forecasts. Intervals come from fitting it again to error rates of resampled recordings, the same recordings at every
size, and to the seeds of a size drawn again where it was trained with several; with one training per size the luck of
training is not in them, nor is the question whether the law holds further out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kimi_audio_ft.errors import UserError
from kimi_audio_ft.scoring.intervals import bootstrap_rates, percentiles
from multirun_analysis.collect import Trial
from multirun_analysis.compare import NUISANCE_PARAMS, Comparison, identity, value_of
from multirun_analysis.power_law import PowerLaw, PowerLaws, fit_power_law, fit_power_laws
from multirun_analysis.statistics.results import Interval
from multirun_analysis.statistics.tally import tally_up

SIZE_PARAM = "data.train_subset"
# Sizes that are forecast, beside twice the largest one measured.
FORECASTS = (50_000, 100_000)
MIN_SIZES = 3
# A forecast for so many times the largest size measured is a guess.
FAR = 10
RESAMPLES, SEED = 2000, 0
_LINE_POINTS = 60
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Point:
    """The error rate at a size: the mean over its trials, which differ in their seeds."""

    size: int
    error: float
    trials: list[Trial]


@dataclass(frozen=True)
class Forecast:
    """The law at a size; ``is_far`` where that is more than ``FAR`` times the largest one measured."""

    size: int
    error: float
    interval: Interval | None
    is_far: bool


@dataclass(frozen=True)
class LearningCurve:
    """A fitted curve; sizes are conversations that were trained on, errors are fractions.

    setting: the values of the other swept parameters.
    floor, exponent: intervals of the law's own numbers; None with too few recordings, like all intervals.
    is_falling: whether the error at the largest size is below that at the smallest, at 95 %.
    off: sizes whose error differs from the law, at 95 %: no interval of a forecast allows for a law that does not hold.
    forecasts: twice the largest size, then ``FORECASTS``. line: the law from the smallest size to the last forecast,
        evenly spaced on a logarithmic axis, to be drawn.
    steps: fewest and most optimizer steps that a trial was trained; equal where compute was the same for all.
    """

    setting: dict[str, Any]
    points: list[Point]
    law: PowerLaw
    floor: Interval | None
    exponent: Interval | None
    is_falling: bool | None
    off: list[int]
    forecasts: list[Forecast]
    line: list[Forecast]
    steps: tuple[int, int] | None


@dataclass(frozen=True)
class LearningStudy:
    """The curves of a sweep over sizes, the lowest at its largest size first; ``refused`` says why there is none."""

    curves: list[LearningCurve]
    refused: str | None


def learning_study(comparison: Comparison) -> LearningStudy | None:
    """The learning curves of a sweep; None for a sweep over something else.

    Raises:
        DataError: an utterances.jsonl cannot be read.
    """
    if SIZE_PARAM not in comparison.swept:
        return None
    curves, refused = [], None
    for setting, trials in _by_setting(comparison):
        try:
            curves.append(fit_learning_curve(trials, setting))
        except UserError as error:
            refused = refused or f"{comparison.sweep.folder}: {error}"
    curves.sort(key=lambda curve: curve.points[-1].error)
    return LearningStudy(curves, None if curves else refused)


def fit_learning_curve(trials: Sequence[Trial], setting: dict[str, Any] | None = None) -> LearningCurve:
    """The curve of trials that differ in their training set's size, and perhaps in their seeds.

    Raises:
        UserError: they have fewer than ``MIN_SIZES`` different sizes.
    """
    points = _points(trials)
    if len(points) < MIN_SIZES:
        found = ", ".join(f"{point.size:,}" for point in points) or "none"
        raise UserError(
            f"a learning curve needs at least {MIN_SIZES} sizes of the training set, and there are {len(points)} "
            f"({found}). Train with more values of {SIZE_PARAM}"
        )
    sizes = np.array([point.size for point in points], float)
    errors = np.array([point.error for point in points])
    law, resampled = fit_power_law(sizes, errors), _resampled(points)
    laws = None if resampled is None else fit_power_laws(sizes, errors, resampled)
    largest = points[-1].size
    ahead = [2 * largest, *(size for size in FORECASTS if size > 2 * largest)]
    drawn = np.unique(np.geomspace(points[0].size, ahead[-1], _LINE_POINTS).round().astype(int))
    steps = [trial.record["steps"] for point in points for trial in point.trials if trial.record.get("steps")]
    return LearningCurve(
        setting=setting or {},
        points=points,
        law=law,
        floor=None if laws is None else _interval(laws.floor),
        exponent=None if laws is None else _interval(laws.exponent),
        is_falling=None if resampled is None else _interval(resampled[:, 0] - resampled[:, -1]).low > 0,
        off=[] if laws is None or resampled is None else _off(points, resampled, laws),
        forecasts=[_forecast(size, law, laws) for size in ahead],
        line=[_forecast(int(size), law, laws) for size in drawn],
        steps=(min(steps), max(steps)) if steps else None,
    )


def _by_setting(comparison: Comparison) -> list[tuple[dict[str, Any], list[Trial]]]:
    """Finished trials that agree in every swept parameter but their size and seeds."""
    params = [param for param in comparison.swept if param not in (SIZE_PARAM, *NUISANCE_PARAMS)]
    groups: dict[str, tuple[dict[str, Any], list[Trial]]] = {}
    for trial in comparison.sweep.finished:
        setting = {param: value_of(trial, param) for param in params}
        groups.setdefault(identity(setting), (setting, []))[1].append(trial)
    return list(groups.values())


def _points(trials: Sequence[Trial]) -> list[Point]:
    by_size: dict[int, list[Trial]] = {}
    for trial in trials:
        size = trial.record.get("train_conversations")
        if isinstance(size, int):
            by_size.setdefault(size, []).append(trial)
    return [Point(size, sum(trial.cer for trial in some) / len(some), some) for size, some in sorted(by_size.items())]


def _resampled(points: Sequence[Point]) -> Floats | None:
    """Error rates of resampled recordings and seeds, ``[RESAMPLES, points]``; None where that cannot be done."""
    trials = [trial for point in points for trial in point.trials]
    tally = tally_up(trials).strict
    if tally is None or not tally.has_enough or len(tally.trials) < len(trials):
        return None
    rates = bootstrap_rates(tally.edits, tally.chars, tally.recordings, RESAMPLES, SEED) / tally.repeats
    rng, columns, start = np.random.default_rng(SEED), [], 0
    for point in points:
        count = len(point.trials)
        seeds = start + rng.integers(count, size=(RESAMPLES, count))
        columns.append(np.take_along_axis(rates, seeds, axis=1).mean(axis=1))
        start += count
    return np.stack(columns, axis=1)


def _off(points: Sequence[Point], resampled: Floats, laws: PowerLaws) -> list[int]:
    """Sizes at which the law of the same resample is above the error in nearly all resamples, or below it."""
    found = []
    for place, point in enumerate(points):
        beside = _interval(resampled[:, place] - laws.at(point.size))
        if beside.low > 0 or beside.high < 0:
            found.append(point.size)
    return found


def _forecast(size: int, law: PowerLaw, laws: PowerLaws | None) -> Forecast:
    interval = None if laws is None else _interval(laws.at(size))
    return Forecast(size, law.at(size), interval, size > FAR * law.unit)


def _interval(samples: Floats) -> Interval:
    low, high = percentiles(samples)
    return Interval(float(low), float(high))
