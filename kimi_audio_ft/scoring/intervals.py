"""Confidence intervals of corpus error rates, over recordings.

The segments of one recording share a speaker, a room and a topic, so their errors are correlated: as if they were
independent, intervals would be too narrow. The unit here is the recording, and a rate is all edits of the recordings by
all their reference characters.

Below ``MANY_RECORDINGS`` an interval is ``rate * exp(-+ t * se / rate)`` with the jackknife's standard error over
recordings (Efron and Tibshirani 1993, chapter 11) and Student's t: on a logarithmic scale, since rates are skewed. From
there on it is a studentised bootstrap over recordings (bootstrap-t; Davison and Hinkley 1997, sections 2.4 and 3.8).
Percentiles of a bootstrap, as they are published for error rates (Bisani and Ney, ICASSP 2004), are too narrow: with 12
recordings they cover 89 % where 95 % are said.

The draws depend on the number of recordings and the seed alone: trials scored on the same references get the same
draws, which makes sums of their rates paired. Imports numpy only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 10_000
LEVEL = 0.95
MIN_RECORDINGS = 5
"""Fewer tell nothing about how recordings differ."""
MANY_RECORDINGS = 40
"""From here on the bootstrap-t covers better, below the jackknife does."""
FEW_RECORDINGS = 20
"""Fewer prove little."""
# 95 % Poisson bound, in errors, where none was seen; recordings that err together need more.
_NONE_SEEN = 3.689
# Weights in a block (8 bytes each), which stays in the processor's cache, and how many are kept for the next caller.
_CELLS, _KEPT = 200_000, 2_000_000


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


def error_rate_interval(
    edits: ArrayLike, chars: ArrayLike, recordings: Sequence[str], seed: int = 0, level: float = LEVEL
) -> tuple[float, float] | None:
    """Interval of one trial's error rate, as fractions; None with fewer than ``MIN_RECORDINGS`` recordings.

    Args:
        edits: of every utterance, or their means over repeats of sampling.
        chars: reference characters of every utterance.
        recordings: the recording of every utterance; its own id where it belongs to none.
    """
    if len(set(recordings)) < MIN_RECORDINGS:
        return None
    values = np.vstack([np.asarray(edits, float), np.asarray(chars, float)])
    by_recording = sum_by_recording(values, recording_index(recordings))
    low, high = error_rate_intervals(by_recording[:1], by_recording[1], seed, level)[0]
    return float(low), float(high)


def error_rate_intervals(
    edits: NDArray[np.float64],
    chars: NDArray[np.float64],
    seed: int = 0,
    level: float = LEVEL,
    resample: bool = True,
) -> NDArray[np.float64]:
    """Intervals of several trials' error rates, ``[trials, 2]``.

    Args:
        edits: of every recording, ``[trials, recordings]``. chars: reference characters, ``[recordings]``.
        resample: False: the jackknife's intervals for any number of recordings, in no time.
    """
    intervals = _log_t(edits, chars, level)
    if resample and edits.shape[1] >= MANY_RECORDINGS:
        studentised = _bootstrap_t(edits, chars, seed, level)
        # Where all errors lie in a few recordings, many resamples have none of them.
        finite = np.isfinite(studentised).all(axis=1, keepdims=True)
        intervals = np.where(finite, studentised, intervals)
    none = edits.sum(axis=1) == 0
    intervals[none] = [0.0, _NONE_SEEN / max(float(chars.sum()), 1.0)]
    return intervals


def _log_t(edits: NDArray[np.float64], chars: NDArray[np.float64], level: float) -> NDArray[np.float64]:
    count = edits.shape[1]
    total, all_chars = edits.sum(axis=1), max(float(chars.sum()), 1.0)
    rates = total / all_chars
    left_out = (total[:, None] - edits) / np.maximum(all_chars - chars, 1.0)
    spread = ((left_out - left_out.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
    error = np.sqrt((count - 1) / count * spread)
    reach = student_quantile((1 + level) / 2, count - 1) * error / np.where(rates > 0, rates, 1.0)
    return rates[:, None] * np.exp(np.stack([-reach, reach], axis=1))


def _bootstrap_t(
    edits: NDArray[np.float64], chars: NDArray[np.float64], seed: int, level: float
) -> NDArray[np.float64]:
    """Infinite bounds where too many resamples have no spread of their own."""
    count, trials = edits.shape[1], len(edits)
    rates = edits.sum(axis=1) / max(float(chars.sum()), 1.0)
    values = np.concatenate([edits, edits * chars, edits**2, np.stack([chars, chars**2])])
    studentised = []
    for weights in _weight_blocks(count, RESAMPLES, seed):
        sums = weights @ values.T
        drawn, products, squares = (sums[:, part * trials : (part + 1) * trials] for part in range(3))
        all_chars, square_chars = np.maximum(sums[:, -2:-1], 1.0), sums[:, -1:]
        rate = drawn / all_chars
        error = np.sqrt(np.maximum(squares - 2 * rate * products + rate**2 * square_chars, 0.0)) / all_chars
        with np.errstate(divide="ignore", invalid="ignore"):
            studentised.append(np.where(rate == rates, 0.0, (rate - rates) / error))
    low, high = percentiles(np.concatenate(studentised), level)
    residuals = edits - rates[:, None] * chars
    error = np.sqrt((residuals**2).sum(axis=1)) / max(float(chars.sum()), 1.0)
    with np.errstate(invalid="ignore"):
        return np.stack([np.maximum(rates - high * error, 0.0), rates - low * error], axis=1)


def p_student(statistic: ArrayLike, freedom: int) -> NDArray[np.float64]:
    """Two-sided p of Student's t with ``freedom`` degrees of freedom.

    For a whole number of degrees of freedom it is a finite sum (Abramowitz and Stegun 1964, 26.7.3 and 26.7.4);
    importing scipy for it would take as long as the rest of a small sweep's statistics.
    """
    odd, angle = freedom % 2, np.arctan2(np.abs(statistic), math.sqrt(freedom))
    term = np.cos(angle) if odd else np.ones_like(angle)
    total = np.zeros_like(angle)
    for number in range(1 + odd, freedom, 2):
        total = total + term
        term = term * np.cos(angle) ** 2 * number / (number + 1)
    inside = (angle + np.sin(angle) * total) * 2 / math.pi if odd else np.sin(angle) * total
    return np.clip(1 - inside, 0.0, 1.0)


@lru_cache
def student_quantile(share: float, freedom: int) -> float:
    """The value that Student's t is below in a ``share`` (over one half) of cases, by bisection."""
    low, high = 0.0, 1e6
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if float(p_student(middle, freedom)) > 2 * (1 - share) else (low, middle)
    return high


def percentiles(samples: NDArray[np.float64], level: float = LEVEL) -> Any:
    """The interval of ``samples`` along their first axis, ``[2, ...]``: low, high."""
    ordered = np.sort(samples, axis=0)
    return np.stack([_at(ordered, (1 - level) / 2), _at(ordered, (1 + level) / 2)])


def quantile(samples: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """As ``np.quantile`` along the first axis, values between two interpolated.

    That one selects, where sorting is three times as fast with a processor's wide registers, and imports masked arrays.
    """
    return _at(np.sort(samples, axis=0), share)


def _at(ordered: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    place = share * (len(ordered) - 1)
    low, high = ordered[int(place)], ordered[math.ceil(place)]
    gap = np.subtract(high, low, out=np.zeros_like(low), where=high != low)  # of two infinities it is no number
    return low + gap * (place % 1)


def sum_by_recording(values: NDArray[np.float64], index: NDArray[np.intp]) -> NDArray[np.float64]:
    """Sums of ``values`` ``[rows, utterances]`` over each recording's utterances, ``[rows, num_recordings]``."""
    return np.stack([np.bincount(index, weights=row) for row in values])


def _weight_blocks(count: int, resamples: int, seed: int) -> Iterable[NDArray[np.int64]]:
    """Draws of each of ``count`` recordings in each resample, in blocks ``[resamples, count]``."""
    few = count * resamples <= _KEPT
    return _kept_blocks(count, resamples, seed) if few else _drawn_blocks(count, resamples, seed)


@lru_cache(maxsize=1)
def _kept_blocks(count: int, resamples: int, seed: int) -> Sequence[NDArray[np.int64]]:
    """A report asks for the same draws three times: strict rates, normalised rates and effects."""
    return tuple(_drawn_blocks(count, resamples, seed))


def _drawn_blocks(count: int, resamples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    most = max(1, _CELLS // count)
    for start in range(0, resamples, most):
        rows = min(most, resamples - start)
        drawn = rng.integers(count, size=(rows, count)) + count * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count)
