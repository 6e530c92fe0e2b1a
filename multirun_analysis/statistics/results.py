"""Results of the statistics as plain dataclasses. Rates and differences are fractions, not percent.

A rate is the one that trials are ranked by (``Trial.rate``), unless the CER is named.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kimi_audio_ft.scoring.intervals import percentiles
from multirun_analysis.compare import Adapter
from multirun_analysis.statistics.seeds import SeedErrors
from multirun_analysis.statistics.tally import Transcripts
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
    """Two trials compared on the same utterances; ``difference`` is the rate of ``first`` minus that of ``second``.

    Where seeds are swept each trial stands for its setting, and the difference is that of two means over seeds.

    interval: of the difference, by itself, from how it varies over recordings and, of settings, over seeds.
    p_mapsswe: the matched-pairs test as published, with utterances for its segments: too sure of itself where the
        utterances of one recording are alike.
    p_recordings: the same test with recordings for its segments, against Student's t. Neither knows of seeds.
    p_adjusted: by randomisation over recordings, for all pairs of the sweep together; it decides.

    All of them are None when there are too few recordings for a comparison.
    """

    first: Trial
    second: Trial
    difference: float
    interval: Interval | None = None
    p_mapsswe: float | None = None
    p_recordings: float | None = None
    p_adjusted: float | None = None

    @property
    def is_significant(self) -> bool:
        """Whether the two differ, at a family-wise error rate of 5 % over the sweep."""
        return self.p_adjusted is not None and self.p_adjusted < ALPHA


@dataclass(frozen=True)
class Standing:
    """How a trial stands to the truly best one, whichever that is.

    p_best: of the trial being the best; below ``ALPHA`` it is ruled out. excess: its rate is at most so much above the
    best one's, at 95 % for all trials together. rate: as compared; where seeds are swept the mean of its setting.
    """

    trial: Trial
    p_best: float
    excess: float
    rate: float


@dataclass(frozen=True)
class Gain:
    """What the recommended adapter gains over the base, which has the rate ``base.rate``.

    ``difference`` is the trial's rate minus ``base_rate``; where seeds are swept both are means of settings. interval,
    shown: as in ``Pair``; None and False where the base has no utterances, or recordings are too few.
    """

    trial: Trial
    base: Trial
    difference: float
    base_rate: float
    interval: Interval | None = None
    shown: bool = False


@dataclass(frozen=True)
class EffectValue:
    """One value of a swept parameter: how far its mean rate over ``count`` trials lies from the mean of all values."""

    value: Any
    effect: float
    interval: Interval | None
    count: int


@dataclass(frozen=True)
class Effect:
    """Main effect of a swept parameter.

    method: "grid" where the trials are a complete grid (differences of plain means); "additive" where trials are
        missing (least squares of rate = constant + one number per value of every parameter);
        "confounded" where the missing trials leave the parameter inseparable from another one: plain means, which
        then hold the other's effect as well; "search" where they are no grid (see ``dependence.py``): changes against
        the trials' geometric mean, and counts of the trials nearest to a value.
    """

    param: str
    values: list[EffectValue]
    method: Literal["grid", "additive", "confounded", "search"]


@dataclass(frozen=True)
class SearchFit:
    """The model behind the effects of a search: to so many ``trials``, of which it needs ``needed``.

    curved: whether numbers have parabolas, not straight lines; None where no number has three values. explained: share
    of the differences between trials (variance of the rate's logarithm) that it predicts of each trial from the others,
    below 0 for a useless one; None where trials are too few, or always change two parameters together.
    """

    trials: int
    needed: int
    curved: bool | None = None
    explained: float | None = None


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
    """How large an evaluation set would tell two trials apart, with the given power.

    Taking the observed ``difference`` (the rate of ``first`` minus that of ``second``) for the true one; ``utterances``
    and ``recordings`` are None when there is none. seeds: of each of the two settings; None where no number of
    utterances needs more than there are.
    """

    first: Trial
    second: Trial
    difference: float
    utterances: int | None
    recordings: int | None
    power: float
    seeds: int | None = None


@dataclass(frozen=True)
class HalfSplit:
    """The luck of the choice: the lowest rate, and that to expect of the chosen one on other recordings.

    expected: mean rate, on the one half of the recordings, of what has the lowest on the other, over random halves.
    """

    lowest: float
    expected: float


class Reason(StrEnum):
    """The reason for recommending a trial."""

    ONLY = "only"  # It is the only finished trial.
    ALONE = "alone"  # It is the best; every other one is ruled out.
    LOWEST = "lowest"  # It has the lowest rate; others are not ruled out as the best.
    CHEAPER = "cheaper"  # It is cheaper than the trial with the lowest rate, and shown to be within the margin of it.
    KEEP_BASE = "keep_base"  # It is the base: the trial that would be taken is not shown to be better.
    TOO_FEW_RECORDINGS = "too_few_recordings"  # It is the best; there are too few recordings to tell trials apart.
    NO_UTTERANCES = "no_utterances"  # It is the best; it or all others have no utterances.jsonl to compare.


@dataclass(frozen=True)
class Statistics:
    """All of a sweep's statistics.

    Where seeds are swept, a trial stands for its setting in all but the first three, ``left_out``, ``beyond`` and
    ``transcripts``.

    intervals, strict_intervals, normalised_intervals: of the rate, the CER and the normalised CER of trials and bases;
        what has too few recordings or no utterances.jsonl is not in it.
    setting_intervals: of the mean rate of settings, with the luck of their seeds; those of the trials without seeds.
    seeds: that luck, by the settings of ``standings``; None where seeds are not swept, or could not be compared.
    best_group: trials that are not ruled out as the best, in the order of the leaderboard; with 95 % the truly best one
        is among them. Only the one with the lowest rate where trials cannot be compared.
    recommended: the trial to take, or the base. choice: the trial that would be taken if there were no base.
    gain: of ``choice`` over the base with the lowest rate; None without a base.
    needed: what would rule out the second of the best two. gain_needed: what would show a gain that is not shown.
    margin: how much worse than the best, relative to its rate, a cheaper trial may be to be recommended.
    left_out: finished trials without utterances, or with others than the best trial's: they are in no comparison.
    beyond: those that are not among the best of a large sweep (``summary.MOST_COMPARED``): not compared either.
    transcripts: of what was compared; None without utterances.
    search: how well the model of ``effects`` fits; None of a grid.
    half_split: the luck of the choice; None for one setting or too few recordings.
    recordings, utterances: how many were compared; 0 without utterances. grouped: some recording has several.
    """

    intervals: dict[Trial, Interval]
    strict_intervals: dict[Trial, Interval]
    normalised_intervals: dict[Trial, Interval]
    setting_intervals: dict[Trial, Interval]
    seeds: SeedErrors | None
    pairs: list[Pair]
    standings: list[Standing]
    best_group: list[Trial]
    recommended: Trial
    choice: Trial
    reason: Reason
    gain: Gain | None
    margin: float
    effects: list[Effect]
    search: SearchFit | None
    overfitting: list[Overfitting]
    needed: Needed | None
    gain_needed: Needed | None
    half_split: HalfSplit | None
    recordings: int
    utterances: int
    grouped: bool
    left_out: list[Trial]
    beyond: list[Trial]
    transcripts: Transcripts | None

    @property
    def is_proven(self) -> bool:
        """Whether what is recommended is shown to be better than the base; only then is it written in green."""
        return self.gain is not None and self.gain.shown
