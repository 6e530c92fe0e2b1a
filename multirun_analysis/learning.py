"""Learning curves of a study over training-set sizes (``data.train_subset``): what more data would bring.

One curve for every setting of the other swept parameters: a power law through the error rates at each size, and its
forecasts. Intervals come from fitting it again to error rates of resampled recordings, the same recordings at every
size, and to the seeds of a size drawn again where it was trained with several; with one training per size the luck of
training is not in them, nor is the question whether the law holds further out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from kimi_audio_ft.config.train import SEEDS
from kimi_audio_ft.errors import UserError
from multirun_analysis.compare import Comparison
from multirun_analysis.params import identity, value_of
from multirun_analysis.statistics.results import Floats, Interval
from multirun_analysis.statistics.tally import tally_up
from multirun_analysis.sweep import Trial

Number = TypeVar("Number", float, Floats)

SIZE_PARAM = "data.train_subset"
# Sizes that are forecast, beside twice the largest one measured.
FORECASTS = (50_000, 100_000)
MIN_SIZES = 3
# A forecast for so many times the largest size measured is a guess.
FAR = 10
RESAMPLES, SEED = 2000, 0
_LINE_POINTS = 60
# Hestness et al. find 0.3 for speech; beyond these bounds three or four points say nothing.
EXPONENTS = (0.05, 2.0)
_GRID = 120
# An error rate of nothing is still known only to about this.
_LEAST_ERROR = 1e-3


@dataclass(frozen=True)
class PowerLaw(Generic[Number]):
    """``floor + scale * (size / unit) ** -exponent``, with ``floor`` and ``scale`` 0 or more; arrays are many laws.

    floor: the error that no amount of data takes away. unit: the size at which ``scale`` is what data could still take
        away; the largest one measured.
    """

    floor: Number
    scale: Number
    exponent: Number
    unit: float

    def at(self, size: float) -> Number:
        """The error rate at a size."""
        return self.floor + self.scale * (size / self.unit) ** -self.exponent


def fit_power_law(sizes: Floats, errors: Floats) -> PowerLaw[float]:
    """The law of one row of error rates ``[sizes]``; least squares, weighted as counts of errors vary."""
    grid = np.geomspace(*EXPONENTS, _GRID)
    best = _fit(sizes, errors[None], errors, grid)
    index = int(np.abs(grid - best.exponent[0]).argmin())
    around = np.linspace(grid[max(0, index - 1)], grid[min(_GRID - 1, index + 1)], 2 * _GRID)
    best = _fit(sizes, errors[None], errors, around)
    return PowerLaw(float(best.floor[0]), float(best.scale[0]), float(best.exponent[0]), best.unit)


def fit_power_laws(sizes: Floats, errors: Floats, resampled: Floats) -> PowerLaw[Floats]:
    """The laws of resampled error rates ``[resamples, sizes]``, weighted as the measured ``errors`` ``[sizes]`` are."""
    return _fit(sizes, resampled, errors, np.geomspace(*EXPONENTS, _GRID))


def _fit(sizes: Floats, rows: Floats, errors: Floats, exponents: Floats) -> PowerLaw[Floats]:
    """The best of the exponents for every row ``[rows, sizes]``, with its floor and scale."""
    weights = 1 / np.maximum(errors, _LEAST_ERROR)  # the variance of a count of errors grows with the count
    unit = float(sizes.max())
    best_loss = np.full(len(rows), np.inf)
    floor, scale, chosen = (np.zeros(len(rows)) for _ in range(3))
    for exponent in exponents:
        shape = (sizes / unit) ** -exponent
        a, b = _floor_and_scale(shape, rows, weights)
        loss = ((rows - a[:, None] - b[:, None] * shape) ** 2) @ weights
        better = loss < best_loss
        best_loss[better], floor[better], scale[better] = loss[better], a[better], b[better]
        chosen[better] = exponent
    return PowerLaw(floor, scale, chosen, unit)


def _floor_and_scale(shape: Floats, rows: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Least squares of ``row = floor + scale * shape`` for every row, with both 0 or more."""
    total, by_shape, by_square = weights.sum(), weights @ shape, weights @ shape**2
    level, product = rows @ weights, rows @ (weights * shape)
    scale = (total * product - by_shape * level) / (total * by_square - by_shape**2)
    floor = (level - scale * by_shape) / total
    rising, no_floor = scale < 0, floor < 0
    floor = np.where(rising, level / total, np.where(no_floor, 0.0, floor))
    scale = np.where(rising, 0.0, np.where(no_floor, product / by_square, scale))
    return floor, scale


@dataclass(frozen=True)
class Point:
    """The CER at a size: the mean over its trials, which differ in their seeds."""

    size: int
    cer: float
    trials: list[Trial]


@dataclass(frozen=True)
class Forecast:
    """The law at a size; ``is_far`` where that is more than ``FAR`` times the largest one measured."""

    size: int
    cer: float
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
    law: PowerLaw[float]
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
    curves.sort(key=lambda curve: curve.points[-1].cer)
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
    errors = np.array([point.cer for point in points])
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
        floor=None if laws is None else Interval.of(laws.floor),
        exponent=None if laws is None else Interval.of(laws.exponent),
        is_falling=None if resampled is None else Interval.of(resampled[:, 0] - resampled[:, -1]).low > 0,
        off=[] if laws is None or resampled is None else _off(points, resampled, laws),
        forecasts=[_forecast(size, law, laws) for size in ahead],
        line=[_forecast(int(size), law, laws) for size in drawn],
        steps=(min(steps), max(steps)) if steps else None,
    )


def _by_setting(comparison: Comparison) -> list[tuple[dict[str, Any], list[Trial]]]:
    """Finished trials that agree in every swept parameter but their size and seeds."""
    params = [param for param in comparison.swept if param not in (SIZE_PARAM, *SEEDS)]
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
    rates = tally.resampled(RESAMPLES, SEED) if tally and len(tally.trials) == len(trials) else None
    if rates is None:
        return None
    rng, columns = np.random.default_rng(SEED), []
    for mine in np.split(rates, np.cumsum([len(point.trials) for point in points[:-1]]), axis=1):
        seeds = rng.integers(mine.shape[1], size=mine.shape)
        columns.append(np.take_along_axis(mine, seeds, axis=1).mean(axis=1))
    return np.stack(columns, axis=1)


def _off(points: Sequence[Point], resampled: Floats, laws: PowerLaw[Floats]) -> list[int]:
    """Sizes at which the law of the same resample is above the error in nearly all resamples, or below it."""
    beside = Interval.of_each(resampled - np.stack([laws.at(point.size) for point in points], axis=1))
    return [point.size for point, one in zip(points, beside, strict=True) if one.low > 0 or one.high < 0]


def _forecast(size: int, law: PowerLaw[float], laws: PowerLaw[Floats] | None) -> Forecast:
    interval = None if laws is None else Interval.of(laws.at(size))
    return Forecast(size, law.at(size), interval, size > FAR * law.unit)
