"""Settings compared by the means of their seeds, with the luck of the seeds in every error.

Trials of a setting and recordings are crossed: every adapter hears every recording. A setting's mean over ``k`` seeds
therefore varies with its seeds (variance between seeds / k) and, as any trial does, with the recordings. The same
layout with readers for seeds and patients for recordings is that of multi-reader studies in radiology, whose analysis
this is (Obuchowski and Rockette 1995; Hillis 2007 for the degrees of freedom): seeds belong to one setting, so they are
readers nested in treatments. What seeds and recordings share, an adapter's own luck with a recording, is in both
variances and is taken off once.

Few seeds tell little of their variance, so it is pooled over the settings, relative to their error rates, with the
degrees of freedom of all. A setting whose seeds scatter out of the ordinary (one that diverges with one of its seeds)
keeps its own variance and does not spoil the others': Cochran's test at 1 %, as in ISO 5725-2. Settings that differ in
their decoding have the same adapters, whose luck they share: how much of it is estimated too, and cancels between them.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_OUTLIER = 0.01
_DRAWS = 4000


@dataclass(frozen=True)
class SeedErrors:
    """The luck of the seeds in the means of settings, all relative to these means.

    count: ``[settings]``, seeds of each.
    own: ``[settings]``, standard error of a mean from its seeds; 0 of a base, which was not trained.
    shared: ``[settings]``, the part of it that the recordings' standard error has too.
    alike: ``[settings, settings]``, correlation of two settings' luck.
    pool: ``[settings]``, which of the pooled variances is a setting's; the first is that of all but outliers.
    spread, freedom: ``[pools]``, standard deviation of one seed's error rate, and its degrees of freedom.
    """

    count: NDArray[np.intp]
    own: Floats
    shared: Floats
    alike: Floats
    pool: NDArray[np.intp]
    spread: Floats
    freedom: NDArray[np.intp]

    @property
    def freedoms(self) -> NDArray[np.intp]:
        """Degrees of freedom of each setting's error, ``[settings]``."""
        return self.freedom[self.pool]

    def between(self, errors: Floats) -> Floats:
        """Variances of differences, ``[settings, settings]``, from standard errors of the settings."""
        together = 2 * self.alike * errors[:, None] * errors
        return np.maximum(errors[:, None] ** 2 + errors**2 - together, 0.0)

    @property
    def beside_recordings(self) -> Floats:
        """The part of ``own`` that the recordings' standard error does not have, ``[settings]``."""
        return np.sqrt(np.maximum(self.own**2 - self.shared**2, 0.0))

    def drawn(self, rng: np.random.Generator, number: int) -> tuple[Floats, Floats]:
        """Luck of other seeds, its standard error being 1, and what their variance would be estimated as, relative to
        the true one: both ``[number, settings]``."""
        values, vectors = np.linalg.eigh(self.alike)
        mixed = vectors * np.sqrt(np.maximum(values, 0.0)) @ vectors.T
        luck = rng.normal(size=(number, len(self.own))) @ mixed
        estimate = rng.chisquare(self.freedom, (number, len(self.freedom))) / self.freedom
        return luck, estimate[:, self.pool]

    def kept(self, variance: Floats, means: Floats) -> Floats:
        """The part of differences' variance over recordings, ``[settings, settings]``, that seeds do not have too."""
        both = self.between(self.shared * means)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(variance > 0, np.clip(1 - both / variance, 0.0, 1.0), 0.0)


def seed_errors(
    edits: Sequence[Floats], trained: Sequence[bool], adapters: Sequence[Hashable] | None = None
) -> SeedErrors | None:
    """The luck of the seeds of settings; None where no setting has two.

    Args:
        edits: of each setting, ``[seeds, recordings]``.
        trained: whether a setting's seeds are trainings; those of a base are not.
        adapters: equal for settings with the same adapters, whose rows are then in the same order.
    """
    has_luck = [of_training and one.sum() > 0 for one, of_training in zip(edits, trained, strict=True)]
    freedom = np.array([len(one) - 1 if luck else 0 for one, luck in zip(edits, has_luck, strict=True)])
    if not freedom.any():
        return None
    between, within = np.array(
        [_squares(one) if few else (0.0, 0.0) for one, few in zip(edits, freedom, strict=True)]
    ).T
    pool = np.zeros(len(edits), np.intp)
    outliers = _outliers(between, freedom)
    pool[outliers] = 1 + np.arange(len(outliers))
    freedoms = np.bincount(pool, freedom)
    same = _same(adapters or range(len(edits)), pool)
    alike = _correlation(edits, between, same) * same
    np.fill_diagonal(alike, 1.0)
    count = np.array([len(one) for one in edits])
    each = np.sqrt(np.array(has_luck) / count)
    spread, of_recordings = (np.sqrt(np.bincount(pool, part) / freedoms) for part in (between, within))
    own, shared = each * spread[pool], each * of_recordings[pool]
    # Correlated estimates count as so many fewer: the variance of their mean has the squares of the correlations.
    independent = np.bincount(pool, freedom / (alike**2).sum(axis=1)).round(6).astype(np.intp)
    return SeedErrors(count, own, np.minimum(shared, own), alike, pool, spread, np.maximum(independent, 1))


def _same(adapters: Sequence[Hashable], pool: NDArray[np.intp]) -> Floats:
    """1 for two settings with the same adapters and variance, ``[settings, settings]``."""
    number = {adapter: place for place, adapter in enumerate(dict.fromkeys(adapters))}
    group = np.array([number[adapter] for adapter in adapters])
    return ((group[:, None] == group) & (pool[:, None] == pool)).astype(float)


def _correlation(edits: Sequence[Floats], squares: Floats, same: Floats) -> float:
    """How much of their luck settings with the same adapters share: 0 to 1, 0 where nothing tells."""
    products = variances = 0.0
    for one, other in np.argwhere(np.triu(same, 1)):
        if edits[one].sum() > 0 and edits[other].sum() > 0:
            totals = (edits[place].sum(axis=1) for place in (one, other))
            deviations = [total / total.mean() - 1 for total in totals]
            products += float(deviations[0] @ deviations[1])
            variances += float(squares[one] + squares[other]) / 2
    return min(max(products / variances, 0.0), 1.0) if variances else 0.0


def _squares(edits: Floats) -> tuple[float, float]:
    """Sums of squares over seeds, relative to the mean: between the seeds' totals, and that part of it which an
    adapter's luck with single recordings explains."""
    recordings = edits.shape[1]
    totals = edits.sum(axis=1)
    between = ((totals / totals.mean() - 1) ** 2).sum()
    residual = edits - edits.mean(axis=0) - edits.mean(axis=1, keepdims=True) + edits.mean()
    of_each = (residual**2).sum() / (recordings - 1)  # times the degrees of freedom of the seeds
    return float(between), float(recordings * of_each / totals.mean() ** 2)


def _outliers(squares: Floats, freedom: NDArray[np.intp]) -> list[int]:
    """Settings whose variance is larger than chance makes the largest of so many."""
    rng = np.random.default_rng(0)
    found: list[int] = []
    left = np.flatnonzero(freedom)
    while len(left) > 2 and squares[left].sum() > 0:
        drawn = rng.chisquare(freedom[left], (_DRAWS, len(left))) / freedom[left]
        chance = drawn.max(axis=1) / drawn.sum(axis=1)
        variances = squares[left] / freedom[left]
        if (chance >= variances.max() / variances.sum()).mean() >= _OUTLIER:
            break
        found.append(int(left[variances.argmax()]))
        left = np.delete(left, variances.argmax())
    return found
