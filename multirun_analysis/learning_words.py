"""A learning curve in sentences for the terminal, and as JSON values for trials.json."""

from __future__ import annotations

from typing import Any

from multirun_analysis.learning_curve import FAR, Forecast, LearningCurve, LearningStudy
from multirun_analysis.statistics.results import Interval
from multirun_analysis.words import percent, short_key, shown

_DIGITS = 9


def learning_in_words(study: LearningStudy | None) -> list[str]:
    """Every curve in a line or two; why there is none where that is so."""
    if study is None:
        return []
    if study.refused is not None:
        return [f"No learning curve: {study.refused}."]
    return [line for curve in study.curves for line in (_law(curve), _forecasts(curve))]


def learning_document(study: LearningStudy | None) -> dict[str, Any] | None:
    """The curves as JSON values; trials are named by their folders."""
    if study is None:
        return None
    return {"refused": study.refused, "curves": [_curve(curve) for curve in study.curves]}


def _law(curve: LearningCurve) -> str:
    sizes = [point.size for point in curve.points]
    named = " ".join(f"{short_key(param)}={shown(param, value)}" for param, value in curve.setting.items())
    said = f"Learning curve{f' ({named})' if named else ''} over {len(sizes)} training sets of {sizes[0]:,} to "
    said += f"{sizes[-1]:,} conversations{_compute(curve)}: CER {percent(curve.points[0].error)} to "
    said += f"{percent(curve.points[-1].error)}"
    if curve.is_falling is False or curve.law.scale == 0:
        return f"{said}; more data has no effect that this evaluation set could show."
    floor = f"{percent(curve.law.floor)}{_between(curve.floor)}"
    return f"{said}, falling as n^-{curve.law.exponent:.2f} towards {floor}."


def _compute(curve: LearningCurve) -> str:
    if curve.steps is None:
        return ""
    fewest, most = curve.steps
    return f", {most:,} steps each" if fewest == most else f", {fewest:,} to {most:,} steps"


def _forecasts(curve: LearningCurve) -> str:
    said = "; ".join(f"{one.size:,} {percent(one.error)}{_between(one.interval)}" for one in curve.forecasts)
    far = [f"{one.size:,}" for one in curve.forecasts if one.is_far]
    beyond = f". A guess, for it is more than {FAR} times what was measured: {', '.join(far)}" if far else ""
    return f"  Forecast: {said}{beyond}."


def _between(interval: Interval | None) -> str:
    return "" if interval is None else f" ({percent(interval.low)} to {percent(interval.high)})"


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
