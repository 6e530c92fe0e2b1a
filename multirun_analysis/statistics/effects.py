"""Main effects: what a swept parameter does to the error rate, whatever the other parameters are.

In a complete grid the mean over all trials at a value differs from the mean of all trials by that value's main effect.
Where trials are missing, plain means would compare ranks at different learning rates; there the effects are those of
``rate = constant + one number per value of each parameter``, fitted by least squares, which is the same thing in a
complete grid. Either way an effect is a fixed weighted sum of the trials' rates, and its interval is that of the same
sum in the bootstrap's resamples: paired over everything, and about the choice of recordings. The luck of seeds
is in it only where they are swept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from multirun_analysis.params import distinct, identity, value_of
from multirun_analysis.statistics.results import Effect, EffectValue, Floats, Interval
from multirun_analysis.sweep import Trial

_ZERO = 1e-8


def main_effects(
    trials: Sequence[Trial], params: Sequence[str], rates: Floats, resampled: Floats | None
) -> list[Effect]:
    """The effect of every parameter that has several values among ``trials``.

    Args:
        rates: of the trials, ``[trials]``.
        resampled: in the bootstrap's resamples, ``[resamples, trials]``; None gives effects without intervals.
    """
    values = {param: distinct([value_of(trial, param) for trial in trials]) for param in params}
    at = {param: _indicators(trials, param, values[param]) for param in params if len(values[param]) > 1}
    is_grid = _is_complete(list(at.values()))
    return [_effect(param, values[param], at, is_grid, rates, resampled) for param in at]


def _indicators(trials: Sequence[Trial], param: str, values: Sequence[Any]) -> Floats:
    """``[trials, values]``: 1 where the trial has the value."""
    known = [identity(value) for value in values]
    return np.eye(len(values))[[known.index(identity(value_of(trial, param))) for trial in trials]]


def _is_complete(indicators: list[Floats]) -> bool:
    """Whether every combination of values is there, all equally often."""
    if not indicators:
        return True
    counts = np.unique(np.hstack(indicators), axis=0, return_counts=True)[1]
    return len(counts) == np.prod([at.shape[1] for at in indicators]) and len(set(counts)) == 1


def _effect(
    param: str, values: list[Any], at: dict[str, Floats], is_grid: bool, rates: Floats, resampled: Floats | None
) -> Effect:
    fitted = None if is_grid else _fitted_weights(param, at)
    weights = _mean_weights(at[param]) if fitted is None else fitted
    method: Literal["grid", "additive", "confounded"]
    method = "grid" if is_grid else "confounded" if fitted is None else "additive"
    effects, counts = (weights @ rates).tolist(), at[param].sum(axis=0).astype(int).tolist()
    intervals = [None] * len(values) if resampled is None else Interval.of_each(resampled @ weights.T)
    return Effect(param, list(map(EffectValue, values, effects, intervals, counts)), method)


def _mean_weights(at: Floats) -> Floats:
    """Weights ``[values, trials]`` of the mean at each value minus the mean of these means."""
    means = at.T / at.sum(axis=0)[:, None]
    return means - means.mean(axis=0)


def _fitted_weights(param: str, at: dict[str, Floats]) -> Floats | None:
    """The same of the additive model; None where the trials do not determine the parameter's effect."""
    trials, count = at[param].shape
    blocks = {"constant": np.ones((trials, 1)), **at}
    contrast = np.eye(count) - 1 / count
    contrasts = np.hstack(
        [contrast if name == param else np.zeros((count, block.shape[1])) for name, block in blocks.items()]
    )
    design = np.hstack(list(blocks.values()))
    weights = contrasts @ np.linalg.pinv(design)
    is_determined = np.abs(weights @ design - contrasts).max() < _ZERO
    return weights if is_determined else None
