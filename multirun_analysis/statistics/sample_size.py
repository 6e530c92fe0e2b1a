"""How many utterances would separate two trials."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

from kimi_audio_ft.scoring.intervals import LEVEL, MIN_RECORDINGS
from multirun_analysis.statistics.results import Needed
from multirun_analysis.statistics.tally import Tally

POWER = 0.8


def needed(tally: Tally) -> Needed | None:
    """For the first two trials of ``tally``; None when there are not two, or too few recordings to know.

    The difference of two rates on ``R`` recordings has the standard error ``s / sqrt(R)``, with ``s`` estimated from
    how the recordings differ (the variance of a ratio, Cochran 1977, section 6.4). A test at 95 % finds the observed
    difference ``d`` with the given power from ``R = ((z_0.975 + z_power) * s / d)^2`` recordings on; utterances follow
    at the present number per recording.
    """
    if len(tally.trials) < 2 or not tally.has_enough:
        return None
    first, second = tally.trials[:2]
    difference = float(tally.rates[0] - tally.rates[1])
    if difference == 0:
        return Needed(first, second, difference, None, None, POWER)
    edits, chars = tally.edits_by_recording[0] - tally.edits_by_recording[1], tally.chars_by_recording
    spread = np.std(edits - difference * chars, ddof=1) / chars.mean()
    normal = NormalDist()
    z = normal.inv_cdf((1 + LEVEL) / 2) + normal.inv_cdf(POWER)
    recordings = max((z * float(spread) / difference) ** 2, MIN_RECORDINGS)
    utterances = math.ceil(recordings * len(tally.recordings) / tally.num_recordings)
    return Needed(first, second, difference, utterances, math.ceil(recordings), POWER)
