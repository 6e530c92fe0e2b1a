"""The learning curve of a study over training-set sizes: measured points, the fitted law and its forecasts."""

from __future__ import annotations

import altair as alt

from multirun_analysis.analysis import Analysis
from multirun_analysis.charts.figure import Figure, Point, cer_axis, chart_of, drawn, tips, whisker
from multirun_analysis.learning import Forecast, LearningStudy
from multirun_analysis.messages import Messages
from multirun_analysis.words import curve_name, in_percent, percent, trial_title


def learning_figure(analysis: Analysis, say: Messages) -> list[Figure]:
    """The figure; none where sizes are not swept or no curve could be fitted."""
    study = analysis.learning
    if study is None or not study.curves:
        return []
    names = [curve_name(curve, say) for curve in study.curves]
    spec = drawn(_layers(study, analysis, names, say), names)
    return [Figure("learning-curve", say("learning.chart"), say("learning.caption"), spec, wide=True)]


def _layers(study: LearningStudy, analysis: Analysis, names: list[str], say: Messages) -> list[alt.Chart]:
    x = alt.X(
        "size:Q",
        title=say("param.data.train_subset"),
        scale=alt.Scale(type="log", nice=False, padding=12),
        axis=alt.Axis(format="~s", grid=False, tickCount=6, labelOverlap="greedy", labelSeparation=10),
    )
    colour = alt.Color("curve:N", sort=names, title=None, legend=alt.Legend() if len(names) > 1 else None)
    curves = list(zip(study.curves, names, strict=True))
    lines = [point for curve, name in curves for point in _forecasts(name, curve.line, say)]
    forecasts = [point for curve, name in curves for point in _forecasts(name, curve.forecasts, say)]
    measured = [
        _at(point.size, trial.cer, name) | {"trial": trial_title(trial, analysis.swept, say)}
        for curve, name in curves
        for point in curve.points
        for trial in point.trials
    ]
    told = tips(size_text=say("param.data.train_subset"), told="CER", interval=say("board.interval"))
    band = chart_of(lines).mark_area(opacity=0.15).encode(x=x, y=cer_axis("low:Q"), y2="high:Q", color=colour)
    line = chart_of(lines).mark_line(strokeWidth=2)
    hollow = chart_of(forecasts).mark_point(size=70, strokeWidth=2).encode(tooltip=told)
    told = tips(trial=say("board.trial"), size_text=say("param.data.train_subset"), told="CER")
    dots = chart_of(measured).mark_point(filled=True, size=70, opacity=1).encode(tooltip=told)
    return [band, *(layer.encode(x=x, y=cer_axis(), color=colour) for layer in (line, hollow, dots))]


def _forecasts(name: str, forecasts: list[Forecast], say: Messages) -> list[Point]:
    return [
        _at(one.size, one.cer, name) | whisker(one.cer, one.interval) | {"interval": in_percent(one.interval, say)}
        for one in forecasts
    ]


def _at(size: int, error: float, name: str) -> Point:
    return {"size": size, "size_text": f"{size:,}", "cer": 100 * error, "told": percent(error, 2), "curve": name}
