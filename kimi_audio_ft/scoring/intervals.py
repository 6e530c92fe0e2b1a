"""Confidence intervals of corpus error rates, by a bootstrap over recordings.

The segments of one recording share a speaker, a room and a topic, so their errors are correlated: drawing segments as
if they were independent gives intervals that are too narrow. Here whole recordings are drawn with replacement (cluster
bootstrap; Davison and Hinkley 1997, section 3.8; for error rates Bisani and Ney, ICASSP 2004), and a rate is all edits
of the drawn recordings by all their reference characters. Intervals are percentiles.

The draws depend on the number of recordings and the seed alone: trials scored on the same references get the same
draws, which makes their differences paired. Imports numpy only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 10_000
LEVEL = 0.95
# Four recordings have 35 different resamples, the outermost of which are one recording four times: no percentiles.
MIN_RECORDINGS = 5
# Weights that are held at a time (8 bytes each), whatever the number of recordings.
_CELLS = 2_000_000


def recording_index(recordings: Sequence[str]) -> NDArray[np.intp]:
    """Which recording each utterance belongs to, ``[utterances]``, counted from 0 in the order they first appear."""
    number = {name: index for index, name in enumerate(dict.fromkeys(recordings))}
    return np.fromiter((number[name] for name in recordings), dtype=np.intp, count=len(recordings))


def bootstrap_rates(
    edits: ArrayLike, chars: ArrayLike, recordings: Sequence[str], resamples: int = RESAMPLES, seed: int = 0
) -> NDArray[np.float64]:
    """Error rates of several trials in the same resamples, ``[resamples, trials]``.

    Args:
        edits: ``[trials, utterances]``; whole numbers give the same floats on every machine, in whatever order a
            matrix product adds them up.
        chars: reference characters, ``[utterances]``.
        recordings: the recording of every utterance.
    """
    index = recording_index(recordings)
    by_recording = sum_by_recording(np.vstack([np.asarray(edits, float), np.asarray(chars, float)]), index)
    drawn = [weights @ by_recording.T for weights in _weight_blocks(by_recording.shape[1], resamples, seed)]
    sums = np.concatenate(drawn)
    return sums[:, :-1] / np.maximum(sums[:, -1:], 1)  # no character to divide by: bare edits, as in EditCounts


def bootstrap_interval(
    edits: ArrayLike,
    chars: ArrayLike,
    recordings: Sequence[str],
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> tuple[float, float] | None:
    """Interval of one trial's error rate, as fractions; None with fewer than ``MIN_RECORDINGS`` recordings.

    Args:
        edits: of every utterance, or their means over repeats of sampling.
        chars: reference characters of every utterance.
        recordings: the recording of every utterance; its own id where it belongs to none.
    """
    if len(set(recordings)) < MIN_RECORDINGS:
        return None
    rates = bootstrap_rates(np.asarray(edits, float)[None], chars, recordings, resamples, seed)[:, 0]
    low, high = percentiles(rates, level)
    return float(low), float(high)


def percentiles(samples: NDArray[np.float64], level: float = LEVEL) -> Any:
    """The interval of ``samples`` along their first axis, ``[2, ...]``: low, high; values between two are interpolated.

    As ``np.quantile``, which selects; sorting is three times as fast where the processor has wide registers.
    """
    ordered = np.sort(samples, axis=0)
    places = [share * (len(ordered) - 1) for share in ((1 - level) / 2, (1 + level) / 2)]
    return np.stack([_between(ordered[int(place)], ordered[math.ceil(place)], place % 1) for place in places])


def _between(low: NDArray[np.float64], high: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    return low + (high - low) * share


def sum_by_recording(values: NDArray[np.float64], index: NDArray[np.intp]) -> NDArray[np.float64]:
    """Sums of ``values`` ``[rows, utterances]`` over each recording's utterances, ``[rows, num_recordings]``."""
    return np.stack([np.bincount(index, weights=row) for row in values])


def _weight_blocks(count: int, resamples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Draws of each of ``count`` recordings in each resample, in blocks ``[resamples, count]``."""
    rng = np.random.default_rng(seed)
    most = max(1, _CELLS // count)
    for start in range(0, resamples, most):
        rows = min(most, resamples - start)
        drawn = rng.integers(count, size=(rows, count)) + count * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count)
