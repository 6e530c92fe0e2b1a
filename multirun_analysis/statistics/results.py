"""Results of the statistics as plain dataclasses. Rates and differences are fractions, not percent."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kimi_audio_ft.scoring.intervals import percentiles
from multirun_analysis.compare import Adapter
from multirun_analysis.sweep import Trial

ALPHA = 0.05
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A 95 % confidence interval."""

    low: float
    high: float

    @classmethod
    def of(cls, samples: Floats) -> Interval:
        """Percentiles of resampled values ``[resamples]``."""
        (interval,) = cls.of_each(samples[:, None])
        return interval

    @classmethod
    def of_each(cls, samples: Floats) -> list[Interval]:
        """The interval of every column of ``[resamples, columns]``."""
        return [cls(float(low), float(high)) for low, high in zip(*percentiles(samples), strict=True)]


@dataclass(frozen=True)
class Pair:
    """Two trials compared on the same utterances; ``difference`` is the CER of ``first`` minus that of ``second``.

    interval, p_bootstrap: of the paired bootstrap over recordings.
    p_mapsswe: the matched-pairs test as published, with utterances for its segments: too sure of itself where the
        utterances of one recording are alike.
    p_recordings: the same test with recordings for its segments, against Student's t.
    p_holm: ``p_recordings`` after Holm's correction over all pairs of the sweep; it decides.

    All of them are None when there are too few recordings for a comparison.
    """

    first: Trial
    second: Trial
    difference: float
    interval: Interval | None = None
    p_bootstrap: float | None = None
    p_mapsswe: float | None = None
    p_recordings: float | None = None
    p_holm: float | None = None

    @property
    def is_significant(self) -> bool:
        """Whether the two differ, at a family-wise error rate of 5 % over the sweep."""
        return self.p_holm is not None and self.p_holm < ALPHA


@dataclass(frozen=True)
class EffectValue:
    """One value of a swept parameter: how far its mean CER over ``count`` trials lies from the mean of all values."""

    value: Any
    effect: float
    interval: Interval | None
    count: int


@dataclass(frozen=True)
class Effect:
    """Main effect of a swept parameter.

    method: "grid" where the trials are a complete grid (differences of plain means); "additive" where trials are
        missing (least squares of CER = constant + one number per value of every parameter);
        "confounded" where the missing trials leave the parameter inseparable from another one: plain means, which
        then hold the other's effect as well.
    """

    param: str
    values: list[EffectValue]
    method: Literal["grid", "additive", "confounded"]


@dataclass(frozen=True)
class Overfitting:
    """Verdict over one adapter's curves.

    kind: "turned" when the validation loss rose again after its minimum, "gap" when it did not but ended far above
        the training loss, "none", or "unknown" when there are too few validation points.
    best_step, best_epoch, best_loss: where the validation loss was lowest.
    gap: last validation loss minus the training loss around it; None without training losses.
    """

    adapter: Adapter
    kind: Literal["none", "turned", "gap", "unknown"]
    best_step: int | None = None
    best_epoch: float | None = None
    best_loss: float | None = None
    final_loss: float | None = None
    gap: float | None = None


@dataclass(frozen=True)
class Needed:
    """How large an evaluation set would separate the two best trials at 95 % with the given power.

    Taking the observed ``difference`` (the CER of ``first`` minus that of ``second``) for the true one; ``utterances``
    and ``recordings`` are None when there is none.
    """

    first: Trial
    second: Trial
    difference: float
    utterances: int | None
    recordings: int | None
    power: float


class Reason(StrEnum):
    """The reason for recommending a trial."""

    ONLY = "only"  # It is the only finished trial.
    ALONE = "alone"  # It is the best, and every other one is significantly worse.
    BEST_IS_CHEAPEST = "best_is_cheapest"  # It is the best; others are not told apart from it and are no cheaper.
    CHEAPEST = "cheapest"  # It is the cheapest of those that cannot be told apart from the best.
    TOO_FEW_RECORDINGS = "too_few_recordings"  # It is the best; there are too few recordings to tell trials apart.
    NO_UTTERANCES = "no_utterances"  # It is the best; it or all others have no utterances.jsonl to compare.


@dataclass(frozen=True)
class Statistics:
    """All of a sweep's statistics.

    intervals, normalised_intervals: of the CER of trials and bases; what has too few recordings or no utterances.jsonl
        is not in it.
    best_group: the best trial and those that cannot be told apart from it, in the order of the leaderboard. Only the
        best one where trials cannot be compared (``reason`` says why).
    left_out: finished trials without utterances, or with others than the best trial's: they are in no comparison.
    beyond: those that are not among the best of a large sweep (``summary.MOST_COMPARED``): not compared either.
    recordings, utterances: how many were compared; 0 without utterances.
    """

    intervals: dict[Trial, Interval]
    normalised_intervals: dict[Trial, Interval]
    pairs: list[Pair]
    best_group: list[Trial]
    recommended: Trial
    reason: Reason
    effects: list[Effect]
    overfitting: list[Overfitting]
    needed: Needed | None
    recordings: int
    utterances: int
    left_out: list[Trial]
    beyond: list[Trial]
