"""What each value of each swept parameter does: effects with their intervals, one row per value."""

from __future__ import annotations

from multirun_analysis.charts.figure import ROW, Figure, Point, Spec, drawn, layer, nominal, quantity, tips, whisker
from multirun_analysis.charts.scales import MOST_LEVELS
from multirun_analysis.charts.short_values import short_values
from multirun_analysis.messages import Messages
from multirun_analysis.params import identity
from multirun_analysis.statistics.results import Effect, SearchFit, Statistics
from multirun_analysis.words import param_name, percent


def effects_figure(statistics: Statistics, say: Messages) -> list[Figure]:
    """The figure; none without a parameter that has a few values."""
    search = statistics.search
    effects = [effect for effect in statistics.effects if 1 < len(effect.values) <= MOST_LEVELS]
    points = [point for effect in effects for point in _points(effect, say)]
    if not points:
        return []
    names = [param_name(effect.param, say) for effect in effects]
    title = "effects.title" if search is None else "effects.of_one"
    spec = drawn(_layers(points, names, say("effects.axis"), say), names, ROW * len(points) + 10)
    caption = _caption(effects, say) if search is None else _search_caption(search, say)
    return [Figure("effects", say(title), caption, spec)]


def effects_note(statistics: Statistics, say: Messages) -> list[str]:
    """Why a search has no effects; nothing for one that has, and for a grid."""
    search = statistics.search
    if search is None or search.explained is not None:
        return []
    if search.trials >= search.needed:
        return [say("effects.together")]
    return [say("effects.few", n=search.trials, needed=search.needed)]


def _points(effect: Effect, say: Messages) -> list[Point]:
    name = param_name(effect.param, say)
    short = name.rpartition(".")[2]
    labels = short_values(effect.param, [one.value for one in effect.values], say)
    points = []
    for one in effect.values:
        bounds, told = whisker(one.effect, one.interval), f"{100 * one.effect:+.2f}"
        told += f" ({bounds['low']:+.2f}, {bounds['high']:+.2f})" if one.interval else ""
        points.append(
            {
                "row": f"{short} {labels[identity(one.value)]}",
                "param": name,
                "effect": 100 * one.effect,
                "told": told,
                "count": one.count,
                **bounds,
            }
        )
    return points


def _layers(points: list[Point], names: list[str], title: str, say: Messages) -> list[Spec]:
    x = quantity("effect", title=title, axis={"tickCount": 5, "grid": True}, scale={"zero": True})
    axis = {"labelLimit": 240, "ticks": False, "domain": False}
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


def _search_caption(search: SearchFit, say: Messages) -> str:
    said = [say("effects.search", n=search.trials)]
    if search.curved is not None:
        said.append(say("effects.curved" if search.curved else "effects.straight"))
    explained = search.explained or 0.0
    useful = explained >= 0.005
    return " ".join([*said, say("effects.predicts" if useful else "effects.useless", share=percent(explained, 0))])
