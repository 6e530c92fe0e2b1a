"""Cutting of recordings into pieces: at pauses, given the probability of speech in every frame, or into windows.

Pieces at pauses leave out what is no speech. A pause of a second always ends a piece. What is longer than a piece may
be is divided at its longest pause, again and again; speech without any pause is divided where it is least likely to be
speech. Spans are pairs of frames: the first, and the one behind the last.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

# Speech begins at a frame of the first probability and lasts until one below the second, as silero-vad has it.
_BEGINS, _ENDS = 0.5, 0.35
# Seconds: shorter speech is a click; longer pauses end a piece.
_LEAST_SPEECH, _LONG_PAUSE = 0.1, 1.0
# Seconds of a pause that stay with the speech: soft beginnings, and ends that die away, have low probabilities.
_BEFORE, _AFTER = 0.4, 0.8
# Frames over which the probability is averaged where speech without a pause has to be cut.
_SMOOTHED = 5

Span = tuple[int, int]
Bounds = tuple[float, float]
"""Seconds at which a piece starts and ends."""


def at_pauses(probabilities: np.ndarray, frame: float, seconds: float, longest: float) -> list[Bounds]:
    """Pieces of a recording that hold its speech, in order; none where there is none.

    Args:
        probabilities: of speech, one for every ``frame`` seconds.
        seconds: length of the recording.
        longest: seconds that no piece exceeds; a few at least.
    """
    most = int((longest - _BEFORE - _AFTER) / frame)
    speech = _speech(probabilities, math.ceil(_LEAST_SPEECH / frame))
    groups = [part for group in _groups(speech, _LONG_PAUSE / frame) for part in _divided(group, most, probabilities)]
    bounds = [(group[0][0] * frame, min(group[-1][1] * frame, seconds)) for group in groups]
    return [(round(start, 3), round(end, 3)) for start, end in _with_margins(bounds, seconds)]


def windows(seconds: float, longest: float) -> list[Bounds]:
    """The fewest windows of equal length, at most ``longest`` seconds, that a recording falls into."""
    count = max(1, math.ceil(seconds / longest))
    edges = (round(seconds * number / count, 3) for number in range(count))
    return list(pairwise([*edges, seconds]))


def _speech(probabilities: np.ndarray, least: int) -> list[Span]:
    """Spans of at least so many frames of speech."""
    spans: list[Span] = []
    start: int | None = None
    for number, probability in enumerate(probabilities.tolist()):
        if start is None and probability >= _BEGINS:
            start = number
        elif start is not None and probability < _ENDS:
            spans.append((start, number))
            start = None
    if start is not None:
        spans.append((start, len(probabilities)))
    return [span for span in spans if span[1] - span[0] >= least]


def _groups(spans: Sequence[Span], pause: float) -> list[list[Span]]:
    """Spans together with those that follow them after less than ``pause`` frames."""
    groups: list[list[Span]] = []
    for span in spans:
        if groups and span[0] - groups[-1][-1][1] < pause:
            groups[-1].append(span)
        else:
            groups.append([span])
    return groups


def _divided(group: Sequence[Span], most: int, probabilities: np.ndarray) -> Iterator[Sequence[Span]]:
    """The group, or parts of it, in order, that have at most so many frames."""
    left = [group]
    while left:
        part = left.pop()
        if part[-1][1] - part[0][0] <= most:
            yield part
        else:
            left += reversed(_halves(part, probabilities))


def _halves(group: Sequence[Span], probabilities: np.ndarray) -> tuple[Sequence[Span], Sequence[Span]]:
    """The group in two parts: at its longest pause, of equally long ones the nearest to the middle."""
    first, stop = group[0][0], group[-1][1]
    if len(group) == 1:
        cut = _least_likely(probabilities, first, stop)
        return [(first, cut)], [(cut, stop)]
    middle = (first + stop) / 2
    pauses = range(1, len(group))
    at = max(pauses, key=lambda n: (group[n][0] - group[n - 1][1], -abs(group[n][0] - middle)))
    return group[:at], group[at:]


def _least_likely(probabilities: np.ndarray, first: int, stop: int) -> int:
    """The frame, in the middle half of a span, around which speech is least likely."""
    quarter = max(1, (stop - first) // 4)
    around = np.convolve(probabilities, np.ones(_SMOOTHED) / _SMOOTHED, mode="same")
    return first + quarter + int(around[first + quarter : stop - quarter].argmin())


def _with_margins(bounds: Sequence[Bounds], seconds: float) -> Iterator[Bounds]:
    """Bounds (seconds) extended into the pauses around them, at most to a pause's middle."""
    ends = [-math.inf, *(end for _, end in bounds)]
    starts = [*(start for start, _ in bounds), math.inf]
    for number, (start, end) in enumerate(bounds):
        before = max(0.0, start - _BEFORE, (ends[number] + start) / 2)
        after = min(seconds, end + _AFTER, (end + starts[number + 1]) / 2)
        yield before, after
