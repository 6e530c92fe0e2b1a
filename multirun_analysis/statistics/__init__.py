"""How far a sweep's comparison can be trusted: intervals, pairs, effects, a recommendation. Imports scipy lazily."""

from multirun_analysis.statistics.analysis import statistics_of
from multirun_analysis.statistics.results import (
    ALPHA,
    Effect,
    EffectValue,
    Interval,
    Needed,
    Overfitting,
    Pair,
    Reason,
    Spread,
    Statistics,
    key_of,
)

__all__ = [
    "ALPHA",
    "Effect",
    "EffectValue",
    "Interval",
    "Needed",
    "Overfitting",
    "Pair",
    "Reason",
    "Spread",
    "Statistics",
    "key_of",
    "statistics_of",
]
