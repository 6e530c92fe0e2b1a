"""Tests of many trials at once, by randomisation over recordings.

Where two trials err alike, either could have made the other's errors in a recording: the sign of their difference there
is a coin's (Fisher's randomisation test; for error rates Riezler and Maxwell 2005). Flipping the signs of recordings at
random, the same ones for all pairs of trials, gives the distribution of every statistic under that hypothesis, and with
it that of the largest of many: no correction has to assume the worst about how the tests depend on each other.

A difference is measured by ``sum(z) / sqrt(n * sum(z^2))`` over ``n`` recordings, ``z`` being the edits of one trial
minus the other's. Student's t of the same differences is an increasing function of it (``t_of``), so both order trials
alike, and this one needs no variance of each randomisation.

- Pairs: step-down max-T (Westfall and Young 1993, algorithm 2.8), two-sided, over all pairs.
- The best: Hsu's comparisons with the best (Hsu 1996, chapter 4). A trial is ruled out when the largest of its
  differences from another one exceeds what chance gives in 5 % of randomisations. The truly best trial stays with 95 %.

Means of settings over several seeds also have the luck of these (``seeds.SeedErrors``), which no recording's sign can
randomise. It is drawn from a normal distribution with the estimated variance, and that estimate anew with its degrees
of freedom (a parametric bootstrap), and differences are measured by t itself, with both errors. Without differences
between recordings that is Student's t of the seeds, without luck of seeds it is what is said above.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from multirun_analysis.statistics.results import ALPHA, Floats
from multirun_analysis.statistics.seeds import SeedErrors

FLIPS = 4000
_AT_ONCE = 250
_Rows = Any  # which trials: anything that indexes an axis of them
_Statistic = Callable[[_Rows, _Rows], Floats]


@dataclass(frozen=True)
class Randomised:
    """Outcome for ``T`` trials and their ``P`` pairs (rows of ``numpy.triu_indices(T, 1)``).

    p_pairs: ``[P]``, adjusted for all pairs. p_best: ``[T]``, of a trial being the best. critical: ``[T]``, Student's t
    that rules a trial out.
    """

    p_pairs: Floats
    p_best: Floats
    critical: Floats


def randomise(edits: Floats, seed: int = 0, seeds: SeedErrors | None = None) -> Randomised:
    """Compare trials by their edits of each recording, ``[trials, recordings]``.

    Sums of whole numbers are exact, so that results are the same on every machine.

    Args:
        seeds: the luck of the seeds, where ``edits`` are means of settings.
    """
    trials, recordings = edits.shape
    first, second = np.triu_indices(trials, 1)
    measure = _Differences(edits) if seeds is None else _SettingDifferences(edits, seeds)
    statistic = measure.observed()
    observed = np.abs(statistic(first, second))[0]
    order = np.argsort(-observed, kind="stable")
    worst = _worst(statistic, trials)[0]

    reached, reached_worst, largest = np.zeros(len(order)), np.zeros(trials), []
    for statistic in measure.drawn(seed):
        null = np.abs(statistic(first, second))[:, order]
        highest = np.maximum.accumulate(null[:, ::-1], axis=1)[:, ::-1]
        reached += (highest >= observed[order]).sum(axis=0)
        largest.append(_worst(statistic, trials))
        reached_worst += (largest[-1] >= worst).sum(axis=0)

    p_pairs = np.empty(len(order))
    p_pairs[order] = np.maximum.accumulate((reached + 1) / (FLIPS + 1))
    critical = np.quantile(np.concatenate(largest), 1 - ALPHA, axis=0)
    critical = t_of(critical, recordings) if seeds is None else critical
    return Randomised(p_pairs, (reached_worst + 1) / (FLIPS + 1), critical)


def t_of(measure: Floats, recordings: int) -> Floats:
    """Student's t of a difference: infinite where every recording has the same one."""
    with np.errstate(divide="ignore"):
        return measure * math.sqrt(recordings - 1) / np.sqrt(np.maximum(1 - measure**2, 0.0))


def _scale(edits: Floats) -> Floats:
    """``1 / sqrt(n * sum(z^2))`` of every two trials, ``[trials, trials]``; 0 where there is no difference at all."""
    squares = np.stack([((edits - one) ** 2).sum(axis=1) for one in edits]) * edits.shape[1]
    return np.where(squares > 0, 1 / np.sqrt(np.where(squares > 0, squares, 1.0)), 0.0)


def _worst(statistic: _Statistic, trials: int) -> Floats:
    """Each trial's largest difference from another one, ``[randomisations, trials]``."""
    found = []
    for trial in range(trials):
        against = statistic([trial], slice(None))
        against[:, trial] = -np.inf
        found.append(against.max(axis=1))
    return np.stack(found, axis=1)


class _Differences:
    """Measures of the differences of trials: each is ``[randomisations, pairs]`` of any two groups of trials."""

    def __init__(self, edits: Floats) -> None:
        self.edits, self.scale = edits, _scale(edits)

    def observed(self) -> _Statistic:
        return self._of(self.edits.sum(axis=1)[None])

    def drawn(self, seed: int) -> Iterator[_Statistic]:
        """Of recordings with flipped signs, a block of randomisations at a time."""
        for signs in _flips(self.edits.shape[1], seed):
            yield self._of(signs @ self.edits.T)

    def _of(self, sums: Floats) -> _Statistic:
        return lambda one, other: (sums[:, one] - sums[:, other]) * self.scale[one, other]


class _SettingDifferences:
    """Student's t of the differences of means over seeds, with errors of recordings and of seeds."""

    def __init__(self, edits: Floats, seeds: SeedErrors) -> None:
        self.edits, self.seeds = edits, seeds
        self.recordings = edits.shape[1]
        self.totals = edits.sum(axis=1)
        self.squares = np.stack([((edits - one) ** 2).sum(axis=1) for one in edits])
        spread = self._of_recordings(self.totals[:, None] - self.totals, self.squares)
        self.kept = seeds.kept(spread, self.totals)

    def observed(self) -> _Statistic:
        return self._of(self.totals[None], np.ones((1, len(self.totals))))

    def drawn(self, seed: int) -> Iterator[_Statistic]:
        """As ``_Differences``, with the luck of new seeds and a new estimate of its variance."""
        rng = np.random.default_rng([seed, 1])
        for signs in _flips(self.recordings, seed):
            luck, estimate = self.seeds.drawn(rng, len(signs))
            yield self._of(signs @ self.edits.T, estimate, luck * self.totals)

    def _of(self, sums: Floats, estimate: Floats, luck: Floats | None = None) -> _Statistic:
        errors = np.sqrt(estimate) * self.seeds.own * self.totals

        def statistic(one: _Rows, other: _Rows) -> Floats:
            kept, difference = self.kept[one, other], sums[:, one] - sums[:, other]
            of_recordings = kept * self._of_recordings(difference, self.squares[one, other])
            if luck is not None:
                difference = np.sqrt(kept) * difference + luck[:, one] - luck[:, other]
            mine, theirs = errors[:, one], errors[:, other]
            of_seeds = np.maximum(mine**2 + theirs**2 - 2 * self.seeds.alike[one, other] * mine * theirs, 0.0)
            with np.errstate(divide="ignore", invalid="ignore"):
                return np.where(difference == 0, 0.0, difference / np.sqrt(of_recordings + of_seeds))

        return statistic

    def _of_recordings(self, difference: Floats, squares: Floats) -> Floats:
        """Variance of a sum over recordings, from the sum itself and that of its squares."""
        return np.maximum(self.recordings * squares - difference**2, 0.0) / (self.recordings - 1)


def _flips(recordings: int, seed: int) -> Iterator[Floats]:
    """Signs of recordings, in blocks ``[randomisations, recordings]``."""
    rng = np.random.default_rng(seed)
    for _ in range(FLIPS // _AT_ONCE):
        yield rng.choice(np.array([-1.0, 1.0]), size=(_AT_ONCE, recordings))
