"""How many recordings, and where seeds are swept how many seeds, would separate two trials."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

from kimi_audio_ft.scoring.intervals import MIN_RECORDINGS, p_student, student_quantile
from multirun_analysis.statistics.pairs import degrees_of_freedom, error_parts
from multirun_analysis.statistics.randomisation import Randomised
from multirun_analysis.statistics.results import ALPHA, Gain, Needed
from multirun_analysis.statistics.tally import Tally

POWER = 0.8


def needed(tally: Tally, randomised: Randomised) -> Needed | None:
    """To rule out the second of the two best trials as the best, the base left out; None when there are not two."""
    rows = [row for row, trial in enumerate(tally.trials) if not trial.is_base][:2]
    return _needed(tally, rows[0], rows[1], float(randomised.critical[rows[1]])) if len(rows) == 2 else None


def needed_for(gain: Gain, tally: Tally, randomised: Randomised) -> Needed | None:
    """To show a gain; None where it is none, or its trials were not compared."""
    if gain.difference >= 0 or not {gain.trial, gain.base} <= {*tally.trials}:
        return None
    one, other = (tally.trials.index(trial) for trial in (gain.trial, gain.base))
    first, second = np.triu_indices(len(tally.trials), 1)
    (pair,) = np.flatnonzero((first == min(one, other)) & (second == max(one, other)))
    return _needed(tally, one, other, float(randomised.critical_pairs[pair]))


def _needed(tally: Tally, one: int, other: int, critical: float) -> Needed:
    """For two rows of ``tally``.

    The difference ``d`` of two rates on ``R`` recordings has the standard error ``s / sqrt(R)``, with ``s`` as these
    recordings have it. The two are told apart beyond the verdict's own critical value ``c``, which is what it takes
    among so many trials, and so they are with the given power from ``R = ((c + z_power) * s / d)^2`` recordings on, if
    the observed difference is the true one. Utterances follow at the present number per recording.

    Where seeds are swept the two are settings. No recordings make the seeds' part of the error smaller; where it leaves
    room for less than the recordings' part needs to be half, both are to be half, with more seeds.
    """
    first, second = tally.trials[one], tally.trials[other]
    difference, count = float(tally.rates[one] - tally.rates[other]), tally.num_recordings
    if difference == 0:
        return Needed(first, second, difference, None, None, POWER)
    least = MIN_RECORDINGS
    if math.isinf(critical):  # so few recordings have too few flips to tell anything apart, whatever the error
        least = count + 1
        pairs = len(tally.trials) * (len(tally.trials) - 1) / 2
        critical = student_quantile(1 - ALPHA / 2 / pairs, count - 1)
    of_recordings, of_seeds = (float(part[one, other]) for part in error_parts(tally))
    reach = critical + NormalDist().inv_cdf(POWER)
    allowed, seeds = (difference / reach) ** 2, None
    if of_seeds > allowed / 2:
        assert tally.seeds is not None
        # More seeds also have more degrees of freedom: the same p takes a smaller t.
        freedom = int(degrees_of_freedom(tally)[one, other])
        p = max(float(p_student(critical, freedom)), 1e-9)
        allowed = (difference / (NormalDist().inv_cdf(1 - p / 2) + NormalDist().inv_cdf(POWER))) ** 2
        of_one_seed = tally.seeds.between(np.sqrt(tally.seeds.count) * tally.seeds.own * tally.rates)
        seeds = math.ceil(float(of_one_seed[one, other]) / (allowed / 2))
        trained = [row for row in (one, other) if not tally.trials[row].is_base]
        seeds = max(seeds, int(tally.seeds.count[trained].min()) + 1)
    room = allowed - (of_seeds if seeds is None else allowed / 2)
    recordings = max(count * of_recordings / room, least)
    utterances = math.ceil(recordings * len(tally.recordings) / count)
    return Needed(first, second, difference, utterances, math.ceil(recordings), POWER, seeds)
