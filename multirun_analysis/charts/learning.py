"""The learning curve of a study over training-set sizes: measured points, the fitted law and its forecasts."""

from __future__ import annotations

import altair as alt

from multirun_analysis.charts.figure import Figure, Point, cer_axis, chart_of, drawn, tips
from multirun_analysis.collect import Trial
from multirun_analysis.compare import Comparison
from multirun_analysis.learning_curve import SIZE_PARAM, Forecast, LearningCurve, LearningStudy
from multirun_analysis.messages import Messages
from multirun_analysis.statistics import Interval
from multirun_analysis.words import percent, short_key, shown, trial_title


def learning_figure(comparison: Comparison, say: Messages) -> list[Figure]:
    """The figure; none where sizes are not swept or no curve could be fitted."""
    study = comparison.learning
    if study is None or not study.curves:
        return []
    names = [curve_name(curve, say) for curve in study.curves]
    spec = drawn(_layers(study, comparison, names, say), names)
    return [Figure("learning-curve", say("learning.chart"), say("learning.caption"), spec, wide=True)]


def learning_sentences(study: LearningStudy, say: Messages) -> list[str]:
    """Each curve's law in words; why there is no curve where that is so."""
    if study.refused is not None:
        return [say("learning.refused", param=SIZE_PARAM)]
    return [_law(curve, say) for curve in study.curves]


def curve_name(curve: LearningCurve, say: Messages) -> str:
    """The values of the other swept parameters."""
    named = [f"{short_key(param)}={shown(param, value, say)}" for param, value in curve.setting.items()]
    return " ".join(named) or say("learning.one")


def in_percent(interval: Interval | None, say: Messages) -> str:
    """An interval; a dash where there are too few recordings for one."""
    if interval is None:
        return "–"
    return say("learning.between", low=percent(interval.low), high=percent(interval.high))


def _law(curve: LearningCurve, say: Messages) -> str:
    first, last = curve.points[0], curve.points[-1]
    facts = {
        "name": curve_name(curve, say),
        "smallest": f"{first.size:,}",
        "largest": f"{last.size:,}",
        "first": percent(first.error),
        "last": percent(last.error),
    }
    if curve.is_falling is False or curve.law.scale == 0:
        return say("learning.flat", **facts)
    return say("learning.law", **facts, exponent=f"{curve.law.exponent:.2f}", floor=percent(curve.law.floor))


def _layers(study: LearningStudy, comparison: Comparison, names: list[str], say: Messages) -> list[alt.Chart]:
    x = alt.X(
        "size:Q",
        title=say("learning.size"),
        scale=alt.Scale(type="log", nice=False, padding=12),
        axis=alt.Axis(format="~s", grid=False, tickCount=6),
    )
    colour = alt.Color("curve:N", sort=names, title=None, legend=alt.Legend() if len(names) > 1 else None)
    curves = list(zip(study.curves, names, strict=True))
    lines = [point for curve, name in curves for point in _forecasts(name, curve.line, say)]
    forecasts = [point for curve, name in curves for point in _forecasts(name, curve.forecasts, say)]
    measured = [
        _measured(trial, point.size, name, comparison, say)
        for curve, name in curves
        for point in curve.points
        for trial in point.trials
    ]
    told = tips(size_text=say("learning.size"), told="CER", interval=say("board.interval"))
    band = chart_of(lines).mark_area(opacity=0.15).encode(x=x, y=cer_axis("low:Q"), y2="high:Q", color=colour)
    line = chart_of(lines).mark_line(strokeWidth=2).encode(x=x, y=cer_axis(), color=colour)
    hollow = (
        chart_of(forecasts).mark_point(size=70, strokeWidth=2).encode(x=x, y=cer_axis(), color=colour, tooltip=told)
    )
    dots = chart_of(measured).mark_point(filled=True, size=70, opacity=1).encode(x=x, y=cer_axis(), color=colour)
    told = tips(trial=say("charts.trial"), size_text=say("learning.size"), told="CER")
    return [band, line, hollow, dots.encode(tooltip=told)]


def _measured(trial: Trial, size: int, name: str, comparison: Comparison, say: Messages) -> Point:
    title = trial_title(trial, comparison.swept, say)
    return _at(size, trial.cer, name) | {"trial": title}


def _forecasts(name: str, forecasts: list[Forecast], say: Messages) -> list[Point]:
    points = []
    for one in forecasts:
        low, high = (one.interval.low, one.interval.high) if one.interval else (one.error, one.error)
        bounds = {"low": 100 * low, "high": 100 * high, "interval": in_percent(one.interval, say)}
        points.append(_at(one.size, one.error, name) | bounds)
    return points


def _at(size: int, error: float, name: str) -> Point:
    return {"size": size, "size_text": f"{size:,}", "cer": 100 * error, "told": percent(error, 2), "curve": name}
