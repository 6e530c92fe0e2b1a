"""The matched-pairs test of two recognisers on the same segments.

Gillick and Cox (ICASSP 1989), "Some statistical issues in the comparison of speech recognition algorithms", section 4:
with ``Z_i`` the errors of one minus the errors of the other in segment ``i``, ``W = mean(Z) / (std(Z) / sqrt(n))`` is
standard normal when both err alike, provided that errors in one segment are independent of those in another. NIST's
sctk (MAPSSWE) cuts segments between stretches that both got right, because its test material was continuous speech;
here an utterance is a segment, and, where utterances of one recording are alike, a recording.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def matched_pairs(differences: NDArray[np.float64]) -> NDArray[np.float64]:
    """The statistic ``W`` of differences in errors ``[..., segments]``; 0 where there is no difference at all.

    Infinite where every segment has the same difference.
    """
    segments = differences.shape[-1]
    error = differences.std(axis=-1, ddof=1) / np.sqrt(segments)
    mean = differences.mean(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(mean == 0, 0.0, mean / error)


def p_normal(statistic: NDArray[np.float64]) -> NDArray[np.float64]:
    """Two-sided p of a standard normal statistic: MAPSSWE as published, for some 50 segments or more."""
    return np.vectorize(math.erfc, otypes=[float])(np.abs(statistic) / math.sqrt(2))
