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
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from multirun_analysis.statistics.results import ALPHA, Floats

FLIPS = 4000
_AT_ONCE = 250


@dataclass(frozen=True)
class Randomised:
    """Outcome for ``T`` trials and their ``P`` pairs (rows of ``numpy.triu_indices(T, 1)``).

    p_pairs: ``[P]``, adjusted for all pairs. p_best: ``[T]``, of a trial being the best. critical: ``[T]``, Student's t
    that rules a trial out.
    """

    p_pairs: Floats
    p_best: Floats
    critical: Floats


def randomise(edits: Floats, seed: int = 0) -> Randomised:
    """Compare trials by their edits of each recording, ``[trials, recordings]``.

    Sums of whole numbers are exact, so that results are the same on every machine.
    """
    trials, recordings = edits.shape
    first, second = np.triu_indices(trials, 1)
    scale = _scale(edits)
    of_pairs = scale[first, second]
    sums = edits.sum(axis=1)
    observed = np.abs((sums[first] - sums[second]) * of_pairs)
    order = np.argsort(-observed, kind="stable")
    worst = _worst(sums[None], scale)[0]

    reached, reached_worst, largest = np.zeros(len(order)), np.zeros(trials), []
    for signs in _flips(recordings, seed):
        flipped = signs @ edits.T
        null = np.abs((flipped[:, first] - flipped[:, second]) * of_pairs)[:, order]
        highest = np.maximum.accumulate(null[:, ::-1], axis=1)[:, ::-1]
        reached += (highest >= observed[order]).sum(axis=0)
        largest.append(_worst(flipped, scale))
        reached_worst += (largest[-1] >= worst).sum(axis=0)

    p_pairs = np.empty(len(order))
    p_pairs[order] = np.maximum.accumulate((reached + 1) / (FLIPS + 1))
    critical = np.quantile(np.concatenate(largest), 1 - ALPHA, axis=0)
    return Randomised(p_pairs, (reached_worst + 1) / (FLIPS + 1), t_of(critical, recordings))


def t_of(measure: Floats, recordings: int) -> Floats:
    """Student's t of a difference: infinite where every recording has the same one."""
    with np.errstate(divide="ignore"):
        return measure * math.sqrt(recordings - 1) / np.sqrt(np.maximum(1 - measure**2, 0.0))


def _scale(edits: Floats) -> Floats:
    """``1 / sqrt(n * sum(z^2))`` of every two trials, ``[trials, trials]``; 0 where there is no difference at all."""
    squares = np.stack([((edits - one) ** 2).sum(axis=1) for one in edits]) * edits.shape[1]
    return np.where(squares > 0, 1 / np.sqrt(np.where(squares > 0, squares, 1.0)), 0.0)


def _worst(sums: Floats, scale: Floats) -> Floats:
    """Each trial's largest difference from another one, ``[randomisations, trials]``, from sums of edits."""
    found = np.empty_like(sums)
    for trial in range(sums.shape[1]):
        against = (sums[:, trial, None] - sums) * scale[trial]
        against[:, trial] = -np.inf
        found[:, trial] = against.max(axis=1)
    return found


def _flips(recordings: int, seed: int) -> Iterator[Floats]:
    """Signs of recordings, in blocks ``[randomisations, recordings]``."""
    rng = np.random.default_rng(seed)
    for _ in range(FLIPS // _AT_ONCE):
        yield rng.choice(np.array([-1.0, 1.0]), size=(_AT_ONCE, recordings))
