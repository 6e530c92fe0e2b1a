"""How many utterances would separate two trials."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

from kimi_audio_ft.scoring.intervals import LEVEL, MIN_RECORDINGS, p_student, student_quantile
from multirun_analysis.statistics.pairs import degrees_of_freedom, error_parts
from multirun_analysis.statistics.randomisation import Randomised
from multirun_analysis.statistics.results import Gain, Needed
from multirun_analysis.statistics.tally import Tally

POWER = 0.8


def needed(tally: Tally, randomised: Randomised) -> Needed | None:
    """For the two best trials of ``tally``, the base left out; None when there are not two.

    The difference ``d`` of two rates on ``R`` recordings has the standard error ``s / sqrt(R)``, with ``s`` as these
    recordings have it. The second is ruled out as the best beyond its own critical value ``c``, which is what it takes
    among so many trials, and so it is with the given power from ``R = ((c + z_power) * s / d)^2`` recordings on, if the
    observed difference is the true one. Utterances follow at the present number per recording.

    Where seeds are swept the two are settings. No recordings make the seeds' part of the error smaller; where it leaves
    room for less than the recordings' part needs to be half, both are to be half, with more seeds.
    """
    rows = [row for row, trial in enumerate(tally.trials) if not trial.is_base][:2]
    if len(rows) < 2:
        return None
    (first, second), (one, other) = (tally.trials[row] for row in rows), rows
    difference, count = float(tally.rates[one] - tally.rates[other]), tally.num_recordings
    if difference == 0:
        return Needed(first, second, difference, None, None, POWER)
    of_recordings, of_seeds = (float(part[one, other]) for part in error_parts(tally))
    reach = float(randomised.critical[other]) + NormalDist().inv_cdf(POWER)
    allowed, seeds = (difference / reach) ** 2, None
    if of_seeds > allowed / 2:
        assert tally.seeds is not None
        # More seeds also have more degrees of freedom: the same p takes a smaller t.
        freedom = int(degrees_of_freedom(tally)[one, other])
        p = max(float(p_student(float(randomised.critical[other]), freedom)), 1e-9)
        allowed = (difference / (NormalDist().inv_cdf(1 - p / 2) + NormalDist().inv_cdf(POWER))) ** 2
        of_one_seed = tally.seeds.between(np.sqrt(tally.seeds.count) * tally.seeds.own * tally.rates)
        seeds = math.ceil(float(of_one_seed[one, other]) / (allowed / 2))
        seeds = max(seeds, int(tally.seeds.count[[one, other]].min()) + 1)
    room = allowed - (of_seeds if seeds is None else allowed / 2)
    recordings = max(count * of_recordings / room, MIN_RECORDINGS)
    utterances = math.ceil(recordings * len(tally.recordings) / count)
    return Needed(first, second, difference, utterances, math.ceil(recordings), POWER, seeds)


def recordings_for(gain: Gain, recordings: int) -> int:
    """How many recordings would show a gain whose interval over ``recordings`` does not, by the rule of ``needed``.

    The interval is of the gain alone; a verdict that is adjusted for many comparisons takes some more.
    """
    assert gain.interval is not None and gain.difference
    half = (gain.interval.high - gain.interval.low) / 2
    error = half / student_quantile((1 + LEVEL) / 2, recordings - 1)
    reach = half + NormalDist().inv_cdf(POWER) * error
    return math.ceil(max(recordings * (reach / gain.difference) ** 2, MIN_RECORDINGS))
