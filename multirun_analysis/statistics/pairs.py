"""Every pair of trials compared on the same utterances.

Two tests stand side by side. MAPSSWE over utterances is what papers report, and it takes the utterances of a recording
for independent. The same test over recordings makes no such assumption; Holm's correction gets its p values. (It cannot
get the bootstrap's: 10,000 resamples give no p below 0.0002, which 630 pairs turn into 0.13.)

The family is all pairs of the sweep and not the pairs with the best trial alone: which trial is best is read off the
same data, and the worst of several equal trials looks significantly worse than the luckiest one far too often.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np

from kimi_audio_ft.scoring.intervals import percentiles
from multirun_analysis.statistics.matched_pairs import holm, matched_pairs, p_normal, p_student
from multirun_analysis.statistics.results import Floats, Interval, Pair
from multirun_analysis.statistics.tally import Tally

P_VALUES = ("p_bootstrap", "p_mapsswe", "p_recordings", "p_holm")


def all_pairs(tally: Tally, resampled: Floats | None) -> list[Pair]:
    """Each pair once, the better trial first, in the order of the tally's trials.

    Args:
        resampled: bootstrap rates ``[resamples, trials]``; None when there are too few recordings.
    """
    trials = tally.trials
    indices = list(combinations(range(len(trials)), 2))
    found = [
        Pair(trials[first], trials[second], float(tally.rates[first] - tally.rates[second]))
        for first, second in indices
    ]
    if resampled is None or not found:
        return found
    rows = range(len(trials) - 1)
    utterances = p_normal(np.concatenate([matched_pairs(_against(tally.mean_edits, row)) for row in rows]))
    statistics = np.concatenate([matched_pairs(_against(tally.edits_by_recording, row)) for row in rows])
    recordings = p_student(statistics, tally.num_recordings)
    rates = np.ascontiguousarray(resampled.T)
    low, high, bootstrap = (np.concatenate(parts) for parts in zip(*(_drawn(rates, row) for row in rows), strict=True))
    figures = np.stack([low, high, bootstrap, utterances, recordings, holm(recordings)], axis=1).tolist()
    return [
        replace(pair, interval=Interval(low, high), **dict(zip(P_VALUES, p, strict=True)))
        for pair, (low, high, *p) in zip(found, figures, strict=True)
    ]


def _against(values: Floats, row: int) -> Floats:
    """One trial's values minus those of every later trial, ``[later trials, ...]``: a row of pairs at a time."""
    return values[row] - values[row + 1 :]


def _drawn(rates: Floats, row: int) -> tuple[Floats, Floats, Floats]:
    """Interval and two-sided p of the differences in the same resamples; p is never 0 (Davison and Hinkley, 4.11)."""
    differences = _against(rates, row)
    low, high = percentiles(differences.T)
    rarer = np.minimum((differences <= 0).sum(axis=1), (differences >= 0).sum(axis=1))
    return low, high, np.minimum(1.0, 2 * (rarer + 1) / (rates.shape[1] + 1))
