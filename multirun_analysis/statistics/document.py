"""The statistics as JSON values for trials.json.

Trials are named by their folders. Figures are rounded, beyond what anybody reads, so that the order in which a machine
adds numbers up does not show.
"""

from __future__ import annotations

from typing import Any

from multirun_analysis.records import finite
from multirun_analysis.statistics.results import ALPHA, Effect, Interval, Overfitting, Pair, Reason, Statistics, key_of
from multirun_analysis.sweep import Trial

_DIGITS = 9


def trial_document(trial: Trial, statistics: Statistics) -> dict[str, Any]:
    """What the statistics say about one trial or base; ``in_best_group`` is null where it cannot be told."""
    low, high = _bounds(statistics.intervals.get(key_of(trial)))
    normalised_low, normalised_high = _bounds(statistics.normalised_intervals.get(key_of(trial)))
    return {
        "cer_ci_low": low,
        "cer_ci_high": high,
        "normalised_cer_ci_low": normalised_low,
        "normalised_cer_ci_high": normalised_high,
        "in_best_group": trial in statistics.best_group if _is_told(trial, statistics) else None,
        "recommended": trial is statistics.recommended,
    }


def statistics_document(statistics: Statistics) -> dict[str, Any]:
    """The sweep's statistics."""
    needed = statistics.needed
    return {
        "method": {
            "resamples": statistics.resamples,
            "recordings": statistics.recordings,
            "utterances": statistics.utterances,
            "alpha": ALPHA,
            "family": len(statistics.pairs),
        },
        "best_group": [trial.name for trial in statistics.best_group],
        "recommended": statistics.recommended.name,
        "reason": statistics.reason.value,
        "not_compared": [trial.name for trial in (*statistics.left_out, *statistics.beyond)],
        "needed": needed
        and {
            "first": needed.first.name,
            "second": needed.second.name,
            "difference": _round(needed.difference),
            "utterances": needed.utterances,
            "recordings": needed.recordings,
            "power": needed.power,
        },
        "effects": [_effect(effect) for effect in statistics.effects],
        "overfitting": [_verdict(verdict) for verdict in statistics.overfitting],
        "pairs": [_pair(pair) for pair in statistics.pairs],
    }


def _is_told(trial: Trial, statistics: Statistics) -> bool:
    """Whether the trial was compared with the best one, or is the best one of those that were."""
    can_tell = statistics.reason not in (Reason.TOO_FEW_RECORDINGS, Reason.NO_UTTERANCES)
    judged = trial.strict is not None and not trial.is_base
    return can_tell and judged and not any(trial is other for other in (*statistics.left_out, *statistics.beyond))


def _pair(pair: Pair) -> dict[str, Any]:
    low, high = _bounds(pair.interval)
    return {
        "first": pair.first.name,
        "second": pair.second.name,
        "difference": _round(pair.difference),
        "low": low,
        "high": high,
        "p_bootstrap": _round(pair.p_bootstrap),
        "p_mapsswe": _round(pair.p_mapsswe),
        "p_recordings": _round(pair.p_recordings),
        "p_holm": _round(pair.p_holm),
        "significant": pair.is_significant,
    }


def _effect(effect: Effect) -> dict[str, Any]:
    values = []
    for value in effect.values:
        low, high = _bounds(value.interval)
        at = {"value": value.value, "effect": _round(value.effect), "low": low, "high": high, "count": value.count}
        values.append(at)
    return {"param": effect.param, "method": effect.method, "values": values}


def _verdict(verdict: Overfitting) -> dict[str, Any]:
    figures = ("kind", "best_step", "best_epoch", "best_loss", "final_loss", "gap")
    return {
        "signature": verdict.adapter.signature,
        "trials": [trial.name for trial in verdict.adapter.trials],
        **{name: finite(getattr(verdict, name)) for name in figures},
    }


def _bounds(interval: Interval | None) -> tuple[float | None, float | None]:
    return (None, None) if interval is None else (_round(interval.low), _round(interval.high))


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, _DIGITS)
