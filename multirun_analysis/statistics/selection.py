"""The luck of the choice: the lowest of many error rates understates what its trial makes of other recordings."""

from __future__ import annotations

import numpy as np

from multirun_analysis.statistics.results import HalfSplit
from multirun_analysis.statistics.tally import Tally

HALVES = 400


def half_split(tally: Tally, rows: list[int], seed: int) -> HalfSplit:
    """The lowest error rate of ``rows``, and that to expect of the chosen one on other recordings of the same kind.

    The lowest is chosen on a random half of the recordings and scored on the other half, both ways, ``HALVES`` times;
    this is the mean. It is a little high, as half of the recordings choose worse than all of them.
    """
    edits, chars = tally.whole_edits[rows], tally.chars_by_recording
    count = tally.num_recordings
    drawn = np.random.default_rng(seed).random((HALVES, count)).argsort(axis=1) < count // 2
    halves = np.concatenate([drawn, ~drawn]).astype(float)
    # Sums of whole numbers, exact in any order: the same choice on every machine.
    rates = (edits @ halves.T) / np.maximum(chars @ halves.T, 1.0)
    chosen = rates.argmin(axis=0)
    others = np.roll(rates, HALVES, axis=1)[chosen, np.arange(2 * HALVES)]
    expected = float(others.mean()) / int(np.lcm.reduce(tally.repeats))
    return HalfSplit(float(tally.rates[rows].min()), expected)
