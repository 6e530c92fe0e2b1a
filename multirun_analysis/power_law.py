"""Error rates as a power law of the size of the training set: error = floor + scale * size ** -exponent.

Learning curves of speech recognition follow this form over orders of magnitude (Hestness et al., arXiv 1712.00409). For
a given exponent the other two are a linear least-squares problem with an answer in closed form, so the exponent is
looked for on a grid: there is no starting value to choose and no local minimum to end in, and thousands of resampled
curves are fitted at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Hestness et al. find 0.3 for speech; beyond these bounds three or four points say nothing.
EXPONENTS = (0.05, 2.0)
_GRID = 120
# An error rate of nothing is still known only to about this.
_LEAST_ERROR = 1e-3


@dataclass(frozen=True)
class PowerLaw:
    """``floor + scale * (size / unit) ** -exponent``, with ``floor`` and ``scale`` 0 or more.

    floor: the error that no amount of data takes away. unit: the size at which ``scale`` is what data could still take
        away; the largest one measured.
    """

    floor: float
    scale: float
    exponent: float
    unit: float

    def at(self, size: float) -> float:
        """The error rate at a size."""
        return self.floor + self.scale * (size / self.unit) ** -self.exponent


@dataclass(frozen=True)
class PowerLaws:
    """Many of them, as columns ``[laws]``."""

    floor: Floats
    scale: Floats
    exponent: Floats
    unit: float

    def at(self, size: float) -> Floats:
        """The error rate of each at a size, ``[laws]``."""
        return self.floor + self.scale * (size / self.unit) ** -self.exponent


def fit_power_law(sizes: Floats, errors: Floats) -> PowerLaw:
    """The law of one row of error rates ``[sizes]``; least squares, weighted as counts of errors vary."""
    weights, rows = _weights(errors), errors[None]
    grid = np.geomspace(*EXPONENTS, _GRID)
    best = _fit(sizes, rows, weights, grid)
    place = int(np.abs(grid - best.exponent[0]).argmin())
    around = np.linspace(grid[max(0, place - 1)], grid[min(_GRID - 1, place + 1)], 2 * _GRID)
    best = _fit(sizes, rows, weights, around)
    return PowerLaw(float(best.floor[0]), float(best.scale[0]), float(best.exponent[0]), best.unit)


def fit_power_laws(sizes: Floats, errors: Floats, resampled: Floats) -> PowerLaws:
    """The laws of resampled error rates ``[resamples, sizes]``, weighted as the measured ``errors`` ``[sizes]`` are."""
    return _fit(sizes, resampled, _weights(errors), np.geomspace(*EXPONENTS, _GRID))


def _weights(errors: Floats) -> Floats:
    """The variance of a count of errors grows with the count."""
    return 1 / np.maximum(errors, _LEAST_ERROR)


def _fit(sizes: Floats, rows: Floats, weights: Floats, exponents: Floats) -> PowerLaws:
    """The best of the exponents for every row ``[rows, sizes]``, with its floor and scale."""
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
    return PowerLaws(floor, scale, chosen, unit)


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
