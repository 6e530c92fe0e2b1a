"""Slices: an adapter against the base by a column of the corpus (speaker, scenario, ...), duration and noise.

Every interval is over the recordings of its slice and stands for itself. What is said to help or to hurt is tested by
the matched pairs of recordings, adjusted for all slices (Holm 1979): among twenty speakers one looks worse by chance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np

from kimi_audio_ft.config.commands import SNR
from kimi_audio_ft.scoring.intervals import LEVEL, error_rate_intervals, p_student, student_quantile
from multirun_analysis.records import Record
from multirun_analysis.statistics.pairs import standard_errors
from multirun_analysis.statistics.results import ALPHA, Floats, Interval
from multirun_analysis.statistics.tally import Tally

DURATION = "seconds"
# dB: below the first, speech is hard to understand for a person too; above the last, the noise is hardly heard.
SNR_EDGES = (10.0, 20.0)
MOST_VALUES = 12
CLASSES = 4


@dataclass(frozen=True)
class Slice:
    """Utterances with one value of a column, or with a number within ``bounds`` (the lower one excluded).

    In a column of numbers, those without one are the last slice, whose value is "".

    rate, base_rate: of the adapter and of the base (None without one); ``difference`` is the first minus the second.
    interval, base_interval, difference_interval, p_adjusted: None with too few recordings.
    """

    value: str
    bounds: tuple[float, float] | None
    utterances: int
    recordings: int
    rate: float
    interval: Interval | None = None
    base_rate: float | None = None
    base_interval: Interval | None = None
    difference: float | None = None
    difference_interval: Interval | None = None
    p_adjusted: float | None = None

    @property
    def verdict(self) -> str | None:
        """Whether the adapter is shown to "help" or to "hurt" here; None where nothing is shown."""
        if self.difference is None or self.p_adjusted is None or self.p_adjusted >= ALPHA:
            return None
        return "help" if self.difference < 0 else "hurt"


@dataclass(frozen=True)
class Slicing:
    """The slices of one column, most utterances first; of numbers in their order.

    more, more_utterances: further values, which are not shown, and their utterances.
    """

    column: str
    slices: list[Slice]
    more: int = 0
    more_utterances: int = 0


@dataclass(frozen=True)
class Slices:
    """All of a sweep's slices. left_out: columns with one value only, or with one for nearly every utterance."""

    slicings: list[Slicing] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def slices_of(tally: Tally, ids: Sequence[str], rows: Sequence[Record]) -> Slices:
    """The slices of an adapter and, if there is one, of the base.

    Args:
        tally: of the adapter and the base, in this order, or of the adapter alone.
        ids: of the tally's utterances, in its order.
        rows: lines of utterances.jsonl, with ``seconds`` and ``columns`` where they were recorded.
    """
    about = {str(row["id"]): row for row in rows}
    known = [about.get(name, {}) for name in ids]
    seconds = [row.get(DURATION) for row in known]
    names = dict.fromkeys(name for row in known for name in row.get("columns") or {})
    columns: dict[str, Sequence[Any]] = {DURATION: seconds} if None not in seconds else {}
    columns |= {name: [(row.get("columns") or {}).get(name, "") for row in known] for name in names}
    found = {name: _slicing(name, values, tally) for name, values in columns.items()}
    left_out = [name for name, slicing in found.items() if slicing is None and name != DURATION]
    return Slices(_adjusted([slicing for slicing in found.values() if slicing is not None]), left_out)


def _slicing(column: str, values: Sequence[Any], tally: Tally) -> Slicing | None:
    places: dict[Any, list[int]] = {}
    for place, value in enumerate(values):
        places.setdefault(value, []).append(place)
    if len(places) < 2:
        return None
    numbers = _numbers(column, values) if column in (DURATION, SNR) or len(places) > MOST_VALUES else None
    if numbers is not None:
        found = _number_slices(column, numbers, tally)
        return Slicing(column, found) if len(found) > 1 else None
    if 2 * len(places) > len(values):
        return None
    ordered = sorted(places.items(), key=lambda item: (-len(item[1]), str(item[0])))
    rest = [some for _, some in ordered[MOST_VALUES:]]
    slices = [_slice(tally, some, str(value), None) for value, some in ordered[:MOST_VALUES]]
    return Slicing(column, slices, len(rest), sum(map(len, rest)))


def _number_slices(column: str, numbers: Floats, tally: Tally) -> list[Slice]:
    """A slice for each class of numbers; the first one has its lower bound too. At last one for missing numbers."""
    missing = np.isnan(numbers)
    told = numbers[~missing].tolist()
    found: list[Slice] = []
    for low, high in _noise_classes(told) if column == SNR else _classes(told):
        inside = (numbers > low if found else numbers >= low) & (numbers <= high)
        found.append(_slice(tally, np.flatnonzero(inside).tolist(), f"{low:g} - {high:g}", (low, high)))
    return [*found, _slice(tally, np.flatnonzero(missing).tolist(), "", None)] if missing.any() else found


def _numbers(column: str, values: Sequence[Any]) -> Floats | None:
    """A column of numbers, NaN where one is missing; None where no value is a number.

    Missing is an empty cell; in a column of signal-to-noise ratios anything is that is no number. In any other column
    that makes all values names.
    """
    numbers = np.array([_number(value) for value in values])
    missing = np.isnan(numbers)
    names = [value for value, is_none in zip(values, missing, strict=True) if is_none and value != ""]
    return None if missing.all() or (names and column != SNR) else numbers


def _number(value: Any) -> float:
    """NaN where the value is no finite number."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return math.nan
    return number if math.isfinite(number) else math.nan


def _classes(numbers: Sequence[float]) -> list[tuple[float, float]]:
    """Quarters; fewer classes where many numbers are equal."""
    edges = np.unique(np.quantile(numbers, np.linspace(0, 1, CLASSES + 1), method="nearest"))
    return list(pairwise(edges.tolist()))


def _noise_classes(numbers: Sequence[float]) -> list[tuple[float, float]]:
    """Up to the first edge, to the second, and beyond it, as far as there are such numbers."""
    low, high = min(numbers), max(numbers)
    return list(pairwise([low, *(edge for edge in SNR_EDGES if low <= edge < high), high]))


def _slice(tally: Tally, places: list[int], value: str, bounds: tuple[float, float] | None) -> Slice:
    recordings = [tally.recordings[place] for place in places]
    part = Tally(tally.trials, tally.edits[:, places], tally.repeats, tally.chars[places], recordings)
    rates = part.rates.tolist()
    found = Slice(value, bounds, len(places), part.num_recordings, rates[0])
    if len(rates) > 1:
        found = replace(found, base_rate=rates[1], difference=rates[0] - rates[1])
    if not part.has_enough:
        return found
    # Resampling every slice would take longer than all the rest of a report.
    bounds_of = error_rate_intervals(part.edits_by_recording, part.chars_by_recording, resample=False).tolist()
    intervals = [Interval(low, high) for low, high in bounds_of]
    if found.difference is None:
        return replace(found, interval=intervals[0])
    error, freedom = float(standard_errors(part)[0, 1]), part.num_recordings - 1
    reach = student_quantile((1 + LEVEL) / 2, freedom) * error
    p = float(p_student(found.difference / error, freedom)) if error else None
    return replace(
        found,
        interval=intervals[0],
        base_interval=intervals[1],
        difference_interval=Interval(found.difference - reach, found.difference + reach),
        p_adjusted=p,
    )


def _adjusted(slicings: Sequence[Slicing]) -> list[Slicing]:
    """With p adjusted for all slices."""
    tested = [one for slicing in slicings for one in slicing.slices if one.p_adjusted is not None]
    ordered = sorted(tested, key=lambda one: one.p_adjusted or 0.0)
    adjusted: dict[int, float] = {}
    reached = 0.0
    for rank, one in enumerate(ordered):
        reached = max(reached, min(1.0, (len(ordered) - rank) * (one.p_adjusted or 0.0)))
        adjusted[id(one)] = reached
    return [
        replace(slicing, slices=[replace(one, p_adjusted=adjusted.get(id(one))) for one in slicing.slices])
        for slicing in slicings
    ]
