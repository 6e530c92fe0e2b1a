"""A learning curve in sentences of either language, and as JSON values for trials.json."""

from __future__ import annotations

from typing import Any

from multirun_analysis.learning_curve import SIZE_PARAM, Forecast, LearningCurve, LearningStudy
from multirun_analysis.messages import Messages
from multirun_analysis.statistics.results import Interval
from multirun_analysis.words import percent, short_key, shown

_DIGITS = 9


def learning_sentences(study: LearningStudy, say: Messages) -> list[str]:
    """Each curve's law in words; why there is no curve where that is so."""
    if study.refused is not None:
        return [say("learning.refused", param=SIZE_PARAM)]
    return [_law(curve, say) for curve in study.curves]


def learning_in_words(study: LearningStudy | None, say: Messages) -> list[str]:
    """The same with every curve's forecasts, for where there is no table of them; nothing for any other sweep."""
    if study is None:
        return []
    if study.refused is not None:
        return learning_sentences(study, say)
    told = [(say("learning.told", said=_law(curve, say)), _forecasts(curve, say)) for curve in study.curves]
    return [line for lines in told for line in lines]


def curve_name(curve: LearningCurve, say: Messages) -> str:
    """The values of the other swept parameters."""
    named = [f"{short_key(param)}={shown(param, value, say)}" for param, value in curve.setting.items()]
    return " ".join(named) or say("learning.one")


def in_percent(interval: Interval | None, say: Messages) -> str:
    """An interval; a dash where there are too few recordings for one."""
    if interval is None:
        return "–"
    return say("learning.between", low=percent(interval.low), high=percent(interval.high))


def learning_document(study: LearningStudy | None) -> dict[str, Any] | None:
    """The curves as JSON values; trials are named by their folders."""
    if study is None:
        return None
    return {"refused": study.refused, "curves": [_curve(curve) for curve in study.curves]}


def _law(curve: LearningCurve, say: Messages) -> str:
    first, last = curve.points[0], curve.points[-1]
    facts = {
        "name": curve_name(curve, say),
        "smallest": f"{first.size:,}",
        "largest": f"{last.size:,}",
        "first": percent(first.error),
        "last": percent(last.error),
        "trained": _training(curve, say),
    }
    off = say("learning.off", sizes=say.listed([f"{size:,}" for size in curve.off])) if curve.off else ""
    if curve.is_falling is False or curve.law.scale == 0:
        return say("learning.flat", **facts) + off
    law = say("learning.law", **facts, exponent=f"{curve.law.exponent:.2f}", floor=percent(curve.law.floor))
    return law + off


def _training(curve: LearningCurve, say: Messages) -> str:
    """Steps of the trainings: with the same number everywhere, more data is not more training."""
    if curve.steps is None:
        return ""
    fewest, most = (f"{steps:,}" for steps in curve.steps)
    return say("learning.steps", n=most) if fewest == most else say("learning.steps_between", low=fewest, high=most)


def _forecasts(curve: LearningCurve, say: Messages) -> str:
    told = []
    for one in curve.forecasts:
        about = [in_percent(one.interval, say)] if one.interval else []
        about += [say("learning.far")] if one.is_far else []
        beside = say("learning.about", said=say("list.comma").join(about)) if about else ""
        told.append(say("learning.at", size=f"{one.size:,}", cer=percent(one.error), beside=beside))
    return say("learning.forecasts", said=say("learning.join").join(told))


def _curve(curve: LearningCurve) -> dict[str, Any]:
    law = curve.law
    return {
        "setting": curve.setting,
        "points": [
            {"size": point.size, "cer": _round(point.error), "trials": [trial.name for trial in point.trials]}
            for point in curve.points
        ],
        "law": {
            "floor": _round(law.floor),
            "scale": _round(law.scale),
            "exponent": _round(law.exponent),
            "unit": law.unit,
            "floor_interval": _bounds(curve.floor),
            "exponent_interval": _bounds(curve.exponent),
        },
        "is_falling": curve.is_falling,
        "off": curve.off,
        "steps": curve.steps,
        "forecasts": [_forecast(one) for one in curve.forecasts],
        "line": [_forecast(one) for one in curve.line],
    }


def _forecast(one: Forecast) -> dict[str, Any]:
    return {"size": one.size, "cer": _round(one.error), "interval": _bounds(one.interval), "is_far": one.is_far}


def _bounds(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [_round(interval.low), _round(interval.high)]


def _round(value: float) -> float:
    return round(value, _DIGITS)
