"""Main effects: what a swept parameter does to the CER, whatever the other parameters are.

In a complete grid the mean over all trials at a value differs from the mean of all trials by that value's main effect.
Where trials are missing, plain means would compare ranks at different learning rates; there the effects are those of
``CER = constant + one number per value of each parameter``, fitted by least squares, which is the same thing in a
complete grid. Either way an effect is a fixed weighted sum of the trials' CERs, and its interval is that of the same
sum in the bootstrap's resamples: paired over everything, and about the choice of recordings. The luck of one training
seed is not in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from multirun_analysis.params import distinct, identity, value_of
from multirun_analysis.statistics.results import Effect, EffectValue, Floats, Interval
from multirun_analysis.sweep import Trial

_ZERO = 1e-8


def main_effects(
    trials: Sequence[Trial], params: Sequence[str], cers: Floats, resampled: Floats | None
) -> list[Effect]:
    """The effect of every parameter that has several values among ``trials``.

    Args:
        cers: of the trials, ``[trials]``.
        resampled: in the bootstrap's resamples, ``[resamples, trials]``; None gives effects without intervals.
    """
    columns = {param: [identity(value_of(trial, param)) for trial in trials] for param in params}
    columns = {param: column for param, column in columns.items() if len(set(column)) > 1}
    is_grid = _is_complete(list(columns.values()))
    return [_effect(param, columns, is_grid, trials, cers, resampled) for param in columns]


def _effect(
    param: str,
    columns: dict[str, list[str]],
    is_grid: bool,
    trials: Sequence[Trial],
    cers: Floats,
    resampled: Floats | None,
) -> Effect:
    values = distinct([value_of(trial, param) for trial in trials])
    means = _mean_weights(columns[param], [identity(value) for value in values])
    fitted = None if is_grid else _fitted_weights(param, columns, [identity(value) for value in values])
    weights = means if fitted is None else fitted
    method: Literal["grid", "additive", "confounded"]
    method = "grid" if is_grid else "confounded" if fitted is None else "additive"
    effects = weights @ cers
    intervals = None if resampled is None else Interval.of_each(resampled @ weights.T)
    found = []
    for index, value in enumerate(values):
        count = columns[param].count(identity(value))
        found.append(EffectValue(value, float(effects[index]), intervals[index] if intervals else None, count))
    return Effect(param, found, method)


def _is_complete(columns: list[list[str]]) -> bool:
    """Whether every combination of values is there, all equally often."""
    counts = Counter(zip(*columns, strict=True))
    return len(counts) == int(np.prod([len(set(column)) for column in columns])) and len(set(counts.values())) <= 1


def _mean_weights(column: list[str], values: list[str]) -> Floats:
    """Weights ``[values, trials]`` of the mean at each value minus the mean of these means."""
    at = _indicators(column, values).T
    means = at / at.sum(axis=1, keepdims=True)
    return means - means.mean(axis=0)


def _fitted_weights(param: str, columns: dict[str, list[str]], values: list[str]) -> Floats | None:
    """The same of the additive model; None where the trials do not determine the parameter's effect."""
    blocks: list[Any] = [np.ones((len(columns[param]), 1))]
    start = 1
    for name, column in columns.items():
        start = sum(block.shape[1] for block in blocks) if name == param else start
        blocks.append(_indicators(column, values if name == param else sorted(set(column))))
    design = np.hstack(blocks)
    contrasts = np.zeros((len(values), design.shape[1]))
    contrasts[:, start : start + len(values)] = np.eye(len(values)) - 1 / len(values)
    weights = contrasts @ np.linalg.pinv(design)
    is_determined = np.abs(weights @ design - contrasts).max() < _ZERO
    return weights if is_determined else None


def _indicators(column: list[str], values: list[str]) -> Floats:
    """``[trials, values]``: 1 where the trial has the value."""
    return np.array([[float(mine == value) for value in values] for mine in column])
