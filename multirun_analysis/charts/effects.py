"""Main effects with their intervals, one row per value of each swept parameter."""

from __future__ import annotations

from multirun_analysis.charts.figure import ROW, Figure, Point, Spec, drawn, layer, nominal, quantity, tips, whisker
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


def _layers(points: list[Point], names: list[str], say: Messages) -> list[Spec]:
    title = say("effects.axis")
    x = quantity("effect", title=title, axis={"tickCount": 5, "grid": True}, scale={"zero": True})
    axis = {"labelLimit": 170, "ticks": False, "domain": False}
    rows = {
        "y": nominal("row", sort=[point["row"] for point in points], title=None, axis=axis),
        "color": nominal("param", sort=names, legend=None),
        "tooltip": tips(row=say("effects.value"), told=say("effects.effect"), count=say("effects.count")),
    }
    bounds = {"x": quantity("low", title=title), "x2": {"field": "high"}}
    return [
        layer([{"effect": 0}], "rule", {"x": x}, style="base"),
        layer(points, "rule", rows | bounds, strokeWidth=2),
        layer(points, "point", rows | {"x": x}, filled=True, size=70, opacity=1),
    ]


def _caption(effects: list[Effect], say: Messages) -> str:
    said = [say("effects.caption")]
    if any(effect.method == "additive" for effect in effects):
        said.append(say("effects.additive"))
    confounded = [param_name(effect.param, say) for effect in effects if effect.method == "confounded"]
    if confounded:
        said.append(say("effects.confounded", params=say.listed(confounded)))
    return " ".join(said)
