"""Main effects with their intervals, one row per value of each swept parameter."""

from __future__ import annotations

import altair as alt

from multirun_analysis.charts.figure import ROW, Figure, Point, chart_of, drawn, tips, whisker
from multirun_analysis.charts.scales import MOST_LEVELS
from multirun_analysis.messages import Messages
from multirun_analysis.statistics.results import Effect, Statistics
from multirun_analysis.words import param_name, shown


def effects_figure(statistics: Statistics, say: Messages) -> list[Figure]:
    """The figure; none without a parameter that has a few values."""
    effects = [effect for effect in statistics.effects if 1 < len(effect.values) <= MOST_LEVELS]
    points = [point for effect in effects for point in _points(effect, say)]
    if not points:
        return []
    names = [param_name(effect.param, say) for effect in effects]
    spec = drawn(_layers(points, names, say), names, ROW * len(points) + 10)
    return [Figure("effects", say("effects.title"), _caption(effects, say), spec)]


def _points(effect: Effect, say: Messages) -> list[Point]:
    name = param_name(effect.param, say)
    points = []
    for one in effect.values:
        bounds, told = whisker(one.effect, one.interval), f"{100 * one.effect:+.2f}"
        told += f" ({bounds['low']:+.2f}, {bounds['high']:+.2f})" if one.interval else ""
        points.append(
            {
                "row": f"{name} {shown(effect.param, one.value, say)}",
                "param": name,
                "effect": 100 * one.effect,
                "told": told,
                "count": one.count,
                **bounds,
            }
        )
    return points


def _layers(points: list[Point], names: list[str], say: Messages) -> list[alt.Chart]:
    rows = [point["row"] for point in points]
    y = alt.Y("row:N", sort=rows, title=None, axis=alt.Axis(labelLimit=170, ticks=False, domain=False))
    title = say("effects.axis")
    x = alt.X("effect:Q", title=title, axis=alt.Axis(tickCount=5, grid=True), scale=alt.Scale(zero=True))
    colour = alt.Color("param:N", sort=names, legend=None)
    told = tips(row=say("effects.value"), told=say("effects.effect"), count=say("effects.count"))
    chart = chart_of(points).encode(y=y, color=colour, tooltip=told)
    return [
        chart_of([{"effect": 0}]).mark_rule(style="base").encode(x=x),
        chart.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", title=title), x2="high:Q"),
        chart.mark_point(filled=True, size=70, opacity=1).encode(x=x),
    ]


def _caption(effects: list[Effect], say: Messages) -> str:
    said = [say("effects.caption")]
    if any(effect.method == "additive" for effect in effects):
        said.append(say("effects.additive"))
    confounded = [param_name(effect.param, say) for effect in effects if effect.method == "confounded"]
    if confounded:
        said.append(say("effects.confounded", params=say.listed(confounded)))
    return " ".join(said)
