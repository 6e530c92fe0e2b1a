"""Partial dependence: what each swept value does to the error rate given the others, where trials are no grid.

A search (Optuna's, or a random list of trials) tries different values together, and its good values more often: means
over the trials at a value would hold what the other parameters did. Here an additive model is fitted by least squares:

    log rate = constant + one curve for each number + one constant for each value of anything else

A curve is a parabola over the values' range, on a logarithmic scale where they span it, or a straight line where trials
are few. Logarithms keep the few trials that failed to learn from deciding the fit.

Intervals are Student's, over trials and recordings. Over trials: the covariance that errors of unequal size leave
(HC3; MacKinnon and White 1985), from each trial's error when it is left out, in which the luck of its seed and all that
the model misses are. Over recordings: the variance of the effects in the bootstrap's resamples. Where the model holds
they cover 94 to 98 % with 12 to 40 trials.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kimi_audio_ft.scoring.intervals import LEVEL, student_quantile
from multirun_analysis.params import distinct, identity, value_of
from multirun_analysis.statistics.results import Effect, EffectValue, Floats, Interval, SearchFit
from multirun_analysis.sweep import Trial

TRIALS_EACH = 2  # for each coefficient: with fewer the fit follows the trials' luck
MOST_VALUES = 8  # of a number are shown as they are; of more,
ALONG = 5  # so many along its range
TAIL = 0.05  # of the trials, at each end of the range, lie beyond: single ones there would be read as a rule
LOGARITHMIC = 4  # a number's largest value is so many times its smallest one
PARABOLA, LINE = 2, 1


def partial_dependence(
    trials: Sequence[Trial], params: Sequence[str], rates: Floats, resampled: Floats | None
) -> tuple[list[Effect], SearchFit]:
    """The effect of values of each parameter, and how well the model fits; no effects where trials are too few.

    Effects are changes of the rate against the geometric mean of the trials.

    Args:
        rates: of the trials, ``[trials]``.
        resampled: in the bootstrap's resamples, ``[resamples, trials]``; None: intervals are over trials only.
    """
    found = {param: [value_of(trial, param) for trial in trials] for param in params}
    varied = {param: values for param, values in found.items() if len(distinct(values)) > 1}
    for degree in (PARABOLA, LINE):
        terms = [_Term(param, values, degree) for param, values in varied.items()]
        design = np.hstack([np.ones((len(trials), 1)), *(term.columns(term.tried) for term in terms)])
        needed = TRIALS_EACH * design.shape[1]
        if len(trials) >= needed and np.linalg.matrix_rank(design) == design.shape[1]:
            fit = _Fit(design, rates, resampled)
            can_bend = any(term.is_number and len(term.values) > PARABOLA for term in terms)
            curved = degree == PARABOLA if can_bend else None
            return _effects(terms, fit), SearchFit(len(trials), needed, curved, fit.explained)
    return [], SearchFit(len(trials), needed)


class _Term:
    """A parameter as columns of the model."""

    def __init__(self, param: str, found: Sequence[Any], degree: int) -> None:
        self.param, self.tried, self.values = param, found, distinct(list(found))
        self.is_number = all(isinstance(one, int | float) and not isinstance(one, bool) for one in self.values)
        self.degree = min(degree, len(self.values) - 1)
        low, high = self.values[0], self.values[-1]
        self.is_log = self.is_number and low > 0 and high >= LOGARITHMIC * low

    @property
    def width(self) -> int:
        return self.degree if self.is_number else len(self.values) - 1

    def columns(self, values: Sequence[Any]) -> Floats:
        """``[values, width]``: powers of the place in the range (-1 to 1), or 1 for the value (none for the first)."""
        if self.is_number:
            return self._place(values)[:, None] ** np.arange(1, self.degree + 1)
        known = [identity(value) for value in self.values]
        return np.eye(len(known))[[known.index(identity(value)) for value in values], 1:]

    def shown(self) -> list[Any]:
        """Values to show: those tried, or some along the range, as one would type them."""
        if not self.is_number or len(self.values) <= MOST_VALUES:
            return self.values
        low, high = np.quantile(np.array(self.tried, float), [TAIL, 1 - TAIL], method="nearest").tolist()
        along = (np.geomspace if self.is_log else np.linspace)(low, high, ALONG).tolist()
        whole = all(isinstance(value, int) for value in self.values)
        return distinct([round(one) if whole else float(f"{one:.2g}") for one in along])

    def nearest(self, shown: Sequence[Any]) -> list[int]:
        """How many of the values that were tried are nearest to each of those ``shown``."""
        if not self.is_number:
            return [sum(identity(one) == identity(value) for one in self.tried) for value in shown]
        places = np.abs(self._place(self.tried)[:, None] - self._place(shown)).argmin(axis=1)
        return np.bincount(places, minlength=len(shown)).tolist()

    def _place(self, values: Sequence[Any]) -> Floats:
        scale = np.log if self.is_log else np.asarray
        low, high = scale(np.array([self.values[0], self.values[-1]], float))
        return 2 * (scale(np.array(values, float)) - low) / (high - low) - 1


@dataclass
class _Fit:
    """Least squares of the logarithms of ``rates`` on ``design``, of full rank."""

    design: Floats
    rates: Floats
    resampled: Floats | None

    def __post_init__(self) -> None:
        least = _least(self.rates)
        logs, inverse = _logs(self.rates, least), np.linalg.pinv(self.design)
        self.typical = float(np.exp(logs.mean()))
        self.coefficients = inverse @ logs
        count, width = self.design.shape
        leverage = np.einsum("ij,ji->i", self.design, inverse)
        left_out = (logs - self.design @ self.coefficients) / np.maximum(1 - leverage, 1e-9)
        spread = (logs - logs.mean()) * count / (count - 1)
        self.explained = 1 - float(left_out @ left_out) / float(spread @ spread) if spread.any() else 0.0
        self.covariance = (inverse * left_out**2) @ inverse.T
        if self.resampled is not None:
            self.covariance = self.covariance + np.atleast_2d(np.cov(inverse @ _logs(self.resampled, least).T))
        self.quantile = student_quantile((1 + LEVEL) / 2, count - width)

    def change(self, contrast: Floats) -> tuple[float, Interval]:
        """A sum of coefficients as a change of the typical rate."""
        effect = float(contrast @ self.coefficients)
        reach = self.quantile * float(np.sqrt(contrast @ self.covariance @ contrast))
        low, middle, high = (self.typical * np.expm1([effect - reach, effect, effect + reach])).tolist()
        return middle, Interval(low, high)


def _least(rates: Floats) -> float:
    """Half of the lowest rate with errors, as which one without any counts."""
    return float(rates[rates > 0].min()) / 2 if (rates > 0).any() else 1.0


def _logs(rates: Floats, least: float) -> Floats:
    return np.log(np.maximum(rates, least))


def _effects(terms: Sequence[_Term], fit: _Fit) -> list[Effect]:
    effects, first = [], 1
    for term in terms:
        values, own = term.shown(), slice(first, first + term.width)
        contrasts = np.zeros((len(values), fit.design.shape[1]))
        contrasts[:, own] = term.columns(values) - fit.design[:, own].mean(axis=0)
        counts = term.nearest(values)
        changes = [fit.change(contrast) for contrast in contrasts]
        told = [
            EffectValue(value, *change, count) for value, change, count in zip(values, changes, counts, strict=True)
        ]
        effects.append(Effect(term.param, told, "search"))
        first += term.width
    return effects
