"""The matched-pairs test of two recognisers on the same segments, and Holm's correction for many tests.

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


def p_student(statistic: NDArray[np.float64], segments: int) -> NDArray[np.float64]:
    """Two-sided p against Student's t with ``segments - 1`` degrees of freedom: exact for few segments, too.

    For a whole number of degrees of freedom it is a finite sum (Abramowitz and Stegun 1964, 26.7.3 and 26.7.4);
    importing scipy for it would take as long as the rest of a small sweep's statistics.
    """
    freedom = segments - 1
    odd, angle = freedom % 2, np.arctan2(np.abs(statistic), math.sqrt(freedom))
    term = np.cos(angle) if odd else np.ones_like(angle)
    total = np.zeros_like(angle)
    for number in range(1 + odd, freedom, 2):
        total += term
        term = term * np.cos(angle) ** 2 * number / (number + 1)
    inside = (angle + np.sin(angle) * total) * 2 / math.pi if odd else np.sin(angle) * total
    return np.clip(1 - inside, 0.0, 1.0)


def holm(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Adjusted p values, in the same order (Holm 1979): below 0.05 means significant at a family-wise 5 %."""
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(stepped)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted
