"""The learning curve of a study over training-set sizes: measured points, the fitted law and its forecasts."""

from __future__ import annotations

from multirun_analysis.analysis import Analysis
from multirun_analysis.charts.figure import (
    Figure,
    Point,
    Spec,
    drawn,
    layer,
    quantity,
    rate_axis,
    series,
    tips,
    whisker,
)
from multirun_analysis.learning import Forecast, LearningStudy
from multirun_analysis.messages import Messages
from multirun_analysis.words import curve_name, entry, in_percent, percent


def learning_figure(analysis: Analysis, say: Messages) -> list[Figure]:
    """The figure; none where sizes are not swept or no curve could be fitted."""
    study = analysis.learning
    if study is None or not study.curves:
        return []
    names = [curve_name(curve, say) for curve in study.curves]
    spec = drawn(_layers(study, analysis, names, say), names)
    return [Figure("learning-curve", say("learning.chart"), say("learning.caption"), spec, wide=True)]


def _layers(study: LearningStudy, analysis: Analysis, names: list[str], say: Messages) -> list[Spec]:
    x = quantity(
        "size",
        title=say("param.data.train_subset"),
        scale={"type": "log", "nice": False, "padding": 12},
        axis={"format": "~s", "grid": False, "tickCount": 6, "labelOverlap": "greedy", "labelSeparation": 10},
    )
    legend: Spec | None = {} if len(names) > 1 else None
    line, point = (series(mark, "curve", names, title=None, legend=legend) for mark in ("line", "point"))
    curves = list(zip(study.curves, names, strict=True))
    lines = [point for curve, name in curves for point in _forecasts(name, curve.line, say)]
    forecasts = [point for curve, name in curves for point in _forecasts(name, curve.forecasts, say)]
    measured = [
        _at(point.size, trial.cer, name) | {"trial": entry(trial, analysis.swept, say)}
        for curve, name in curves
        for point in curve.points
        for trial in point.trials
    ]
    place, size = {"x": x, "y": rate_axis()}, say("param.data.train_subset")
    ahead = place | point | {"tooltip": tips(size_text=size, told="CER", interval=say("board.interval"))}
    found = place | point | {"tooltip": tips(trial=say("board.trial"), size_text=size, told="CER")}
    return [
        layer(
            lines,
            "area",
            {"x": x, "color": line["color"], "y": rate_axis("low"), "y2": {"field": "high"}},
            opacity=0.15,
        ),
        layer(lines, "line", place | line, strokeWidth=2),
        layer(forecasts, "point", ahead, size=70, strokeWidth=2),
        layer(measured, "point", found, filled=True, size=70, opacity=1),
    ]


def _forecasts(name: str, forecasts: list[Forecast], say: Messages) -> list[Point]:
    return [
        _at(one.size, one.cer, name) | whisker(one.cer, one.interval) | {"interval": in_percent(one.interval, say)}
        for one in forecasts
    ]


def _at(size: int, error: float, name: str) -> Point:
    return {"size": size, "size_text": f"{size:,}", "cer": 100 * error, "told": percent(error, 2), "curve": name}
