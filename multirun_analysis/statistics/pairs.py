"""Every pair of trials compared on the same utterances.

MAPSSWE over utterances is what papers report; it takes the utterances of a recording for independent. The same test
over recordings makes no such assumption. What decides is the randomisation test over recordings, adjusted for all.

The family is all pairs of the sweep and not the pairs with the best trial alone: which trial is best is read off the
same data, and the worst of several equal trials looks significantly worse than the luckiest one far too often.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from kimi_audio_ft.scoring.intervals import LEVEL, p_student, student_quantile
from multirun_analysis.statistics.matched_pairs import matched_pairs, p_normal
from multirun_analysis.statistics.randomisation import Randomised
from multirun_analysis.statistics.results import Floats, Interval, Pair
from multirun_analysis.statistics.tally import Tally

P_VALUES = ("p_mapsswe", "p_recordings", "p_adjusted")


def all_pairs(tally: Tally, randomised: Randomised | None) -> list[Pair]:
    """Each pair once, the better trial first, in the order of the tally's trials.

    Args:
        randomised: of the tally's trials; None when there are too few recordings.
    """
    trials = tally.trials
    first, second = np.triu_indices(len(trials), 1)
    differences = tally.rates[first] - tally.rates[second]
    found = [Pair(trials[i], trials[j], float(d)) for i, j, d in zip(first, second, differences, strict=True)]
    if randomised is None or not found:
        return found
    rows = range(len(trials) - 1)
    utterances = p_normal(np.concatenate([matched_pairs(_against(tally.mean_edits, row)) for row in rows]))
    statistics = np.concatenate([matched_pairs(_against(tally.edits_by_recording, row)) for row in rows])
    errors, recordings = standard_errors(tally)[first, second], p_student(statistics, tally.num_recordings - 1)
    freedom = degrees_of_freedom(tally)[first, second]
    reach = errors * [student_quantile((1 + LEVEL) / 2, one) for one in freedom.tolist()]
    figures = np.stack(
        [differences - reach, differences + reach, utterances, recordings, randomised.p_pairs], axis=1
    ).tolist()
    return [
        replace(pair, interval=Interval(low, high), **dict(zip(P_VALUES, p, strict=True)))
        for pair, (low, high, *p) in zip(found, figures, strict=True)
    ]


def standard_errors(tally: Tally) -> Floats:
    """Of the difference of every two trials' rates, ``[trials, trials]``: of recordings and, of settings, of seeds."""
    of_recordings, of_seeds = error_parts(tally)
    return np.sqrt(of_recordings + of_seeds)


def error_parts(tally: Tally) -> tuple[Floats, Floats]:
    """The squares of the standard errors in two parts: what more recordings make smaller, and what more seeds do."""
    edits, seeds = tally.edits_by_recording, tally.seeds
    spread = np.stack([(edits - one).std(axis=1, ddof=1) for one in edits])
    of_recordings = (spread * np.sqrt(tally.num_recordings) / max(float(tally.chars.sum()), 1.0)) ** 2
    if seeds is None:
        return of_recordings, np.zeros_like(of_recordings)
    return of_recordings * seeds.kept(of_recordings, tally.rates), seeds.between(seeds.own * tally.rates)


def degrees_of_freedom(tally: Tally) -> NDArray[np.intp]:
    """Of these standard errors, ``[trials, trials]``, by Satterthwaite's approximation where seeds are in them."""
    highest, seeds = tally.num_recordings - 1, tally.seeds
    if seeds is None:
        return np.full((len(tally.trials), len(tally.trials)), highest)
    of_recordings, of_seeds = error_parts(tally)
    own = (seeds.own * tally.rates) ** 2
    alone = own**2 / seeds.freedoms
    pooled = of_seeds**2 / seeds.freedoms
    both = np.where(seeds.pool[:, None] == seeds.pool, pooled, alone[:, None] + alone)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = (of_recordings + of_seeds) ** 2 / (of_recordings**2 / highest + both)
    return np.clip(np.nan_to_num(found, nan=highest), 1, None).astype(np.intp)


def _against(values: Floats, row: int) -> Floats:
    """One trial's values minus those of every later trial, ``[later trials, ...]``: a row of pairs at a time."""
    return values[row] - values[row + 1 :]
