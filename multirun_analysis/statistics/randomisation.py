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
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kimi_audio_ft.scoring.intervals import quantile
from multirun_analysis.statistics.results import ALPHA, Floats
from multirun_analysis.statistics.seeds import SeedErrors

FLIPS = 4000
_AT_ONCE = 250
_OBSERVED, _ALL = 0, slice(None)  # places among what was observed and the randomisations
_Trials = np.intp | NDArray[np.intp]


@dataclass(frozen=True)
class Randomised:
    """Outcome for ``T`` trials and their ``P`` pairs (rows of ``numpy.triu_indices(T, 1)``).

    p_pairs: ``[P]``, adjusted for all pairs. p_best: ``[T]``, of a trial being the best. critical: ``[T]``, Student's t
    that rules a trial out. critical_pairs: ``[P]``, that calls a pair different.
    """

    p_pairs: Floats
    p_best: Floats
    critical: Floats
    critical_pairs: Floats


def randomise(edits: Floats, seed: int = 0, seeds: SeedErrors | None = None) -> Randomised:
    """Compare trials by their edits of each recording, ``[trials, recordings]``.

    Sums of whole numbers are exact, so that results are the same on every machine.

    Args:
        seeds: the luck of the seeds, where ``edits`` are means of settings.
    """
    trials, recordings = edits.shape
    first, second = np.triu_indices(trials, 1)
    measure = _Differences(edits, seed) if seeds is None else _SettingDifferences(edits, seed, seeds)
    order = np.argsort(-np.abs(measure.of(first, second, _OBSERVED)), kind="stable")

    largest, worst = np.zeros(FLIPS + 1), np.full((trials, FLIPS + 1), -np.inf)
    reached, beyond = np.empty(len(order)), np.empty(len(order))
    for pair in order[::-1]:  # by rising difference: the largest so far is that of the pair and of all smaller ones
        one, other = first[pair], second[pair]
        difference = measure.of(one, other)
        reverse = -difference
        np.maximum(worst[one], difference, out=worst[one])
        np.maximum(worst[other], reverse, out=worst[other])
        np.maximum(largest, np.maximum(difference, reverse), out=largest)
        reached[pair] = np.count_nonzero(largest >= largest[_OBSERVED])
        beyond[pair] = quantile(largest[1:], 1 - ALPHA)

    p_pairs = np.empty(len(order))
    p_pairs[order] = np.maximum.accumulate(reached[order] / (FLIPS + 1))
    p_best = np.count_nonzero(worst >= worst[:, [_OBSERVED]], axis=1) / (FLIPS + 1)
    critical = quantile(worst[:, 1:].T, 1 - ALPHA)
    if seeds is None:
        critical, beyond = t_of(critical, recordings), t_of(beyond, recordings)
    return Randomised(p_pairs, p_best, critical, beyond)


def t_of(measure: Floats, recordings: int) -> Floats:
    """Student's t of a difference: infinite where every recording has the same one."""
    with np.errstate(divide="ignore"):
        return measure * math.sqrt(recordings - 1) / np.sqrt(np.maximum(1 - measure**2, 0.0))


def _scale(edits: Floats) -> Floats:
    """``1 / sqrt(n * sum(z^2))`` of every two trials, ``[trials, trials]``; 0 where there is no difference at all."""
    squares = np.stack([((edits - one) ** 2).sum(axis=1) for one in edits]) * edits.shape[1]
    return np.where(squares > 0, 1 / np.sqrt(np.where(squares > 0, squares, 1.0)), 0.0)


class _Differences:
    """Measures of the differences of trials, what was observed and then each randomisation."""

    def __init__(self, edits: Floats, seed: int) -> None:
        drawn = [edits @ signs.T for signs in _flips(edits.shape[1], seed)]
        self.sums, self.scale = np.concatenate([edits.sum(axis=1)[:, None], *drawn], axis=1), _scale(edits)

    def of(self, one: _Trials, other: _Trials, at: int | slice = _ALL) -> Floats:
        """Of two trials in all randomisations, or of many pairs in one. A row of them stays in the processor's cache,
        all pairs at once would not."""
        difference: Floats = (self.sums[one, at] - self.sums[other, at]) * self.scale[one, other]
        return difference


class _SettingDifferences:
    """Student's t of the differences of means over seeds, with errors of recordings and of seeds."""

    def __init__(self, edits: Floats, seed: int, seeds: SeedErrors) -> None:
        self.alike, self.recordings = seeds.alike, edits.shape[1]
        totals = edits.sum(axis=1)
        self.squares = np.stack([((edits - one) ** 2).sum(axis=1) for one in edits])
        self.kept = seeds.kept(self._of_recordings(totals[:, None] - totals, self.squares), totals)
        # What was observed has its luck in it; the randomisations get new luck, and a new estimate of its variance.
        sums, estimates, lucks = [totals[None]], [np.ones((1, len(totals)))], [np.zeros((1, len(totals)))]
        rng = np.random.default_rng([seed, 1])
        for signs in _flips(self.recordings, seed):
            luck, estimate = seeds.drawn(rng, len(signs))
            sums.append(signs @ edits.T)
            estimates.append(np.broadcast_to(estimate, luck.shape))
            lucks.append(luck)
        self.sums, self.luck = np.concatenate(sums).T.copy(), (np.concatenate(lucks) * seeds.own * totals).T.copy()
        self.errors = (np.sqrt(np.concatenate(estimates)) * seeds.own * totals).T.copy()
        self.is_drawn = np.arange(FLIPS + 1) > 0

    def of(self, one: _Trials, other: _Trials, at: int | slice = _ALL) -> Floats:
        """As ``_Differences.of``."""
        kept, difference = self.kept[one, other], self.sums[one, at] - self.sums[other, at]
        of_recordings = kept * self._of_recordings(difference, self.squares[one, other])
        shrunk = np.where(self.is_drawn[at], np.sqrt(kept), 1.0)
        difference = shrunk * difference + self.luck[one, at] - self.luck[other, at]
        mine, theirs = self.errors[one, at], self.errors[other, at]
        of_seeds = np.maximum(mine**2 + theirs**2 - 2 * self.alike[one, other] * mine * theirs, 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(difference == 0, 0.0, difference / np.sqrt(of_recordings + of_seeds))

    def _of_recordings(self, difference: Floats, squares: Floats) -> Floats:
        """Variance of a sum over recordings, from the sum itself and that of its squares."""
        return np.maximum(self.recordings * squares - difference**2, 0.0) / (self.recordings - 1)


def _flips(recordings: int, seed: int) -> Iterator[Floats]:
    """Signs of recordings, in blocks ``[randomisations, recordings]``."""
    rng = np.random.default_rng(seed)
    for _ in range(FLIPS // _AT_ONCE):
        yield rng.choice(np.array([-1.0, 1.0]), size=(_AT_ONCE, recordings))
