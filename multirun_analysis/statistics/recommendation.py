"""The recommended trial: the cheapest of those that tie with the best."""

from __future__ import annotations

import math
from collections.abc import Sequence

from multirun_analysis.statistics.results import Pair, Reason
from multirun_analysis.sweep import GREEDY_TEMPERATURE, Trial


def best_group(ordered: Sequence[Trial], pairs: Sequence[Pair]) -> list[Trial]:
    """The best of ``ordered`` (best first) and every trial that ties with it: their difference is not significant."""
    best = ordered[0]
    alike = {pair.second for pair in pairs if pair.first is best and not pair.is_significant}
    return [best, *(trial for trial in ordered[1:] if trial in alike)]


def recommend(group: Sequence[Trial]) -> tuple[Trial, Reason]:
    """The cheapest of ``group`` (best first) of a sweep of several trials, and why."""
    if len(group) == 1:
        return group[0], Reason.ALONE
    cheapest = min(group, key=cost)  # the better one of equally cheap ones: it comes first
    return cheapest, Reason.BEST_IS_CHEAPEST if cheapest is group[0] else Reason.CHEAPEST


def cost(trial: Trial) -> tuple[float, float, float, bool]:
    """Cost of a trial as a sort key: trainable parameters, rank, training steps, sampling or greedy.

    Nothing measured in seconds: the recommendation is the same on every machine and in every run.
    """
    return (
        _number(trial.record.get("trainable_parameters")),
        _number(trial.params.get("lora.r")),
        _number(trial.record.get("steps")),
        trial.params.get("decoding.text_temperature") != GREEDY_TEMPERATURE,
    )


def _number(value: object) -> float:
    """Unknown costs count as the highest."""
    return float(value) if isinstance(value, int | float) else math.inf
