"""All trials at once: one line per trial across the swept parameters to its error rate (parallel coordinates)."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

from multirun_analysis.charts.figure import Figure, Point, Spec, drawn, layer, nominal, quantity, tips
from multirun_analysis.charts.scales import LOG_BASES, Scale
from multirun_analysis.compare import Comparison
from multirun_analysis.messages import Messages
from multirun_analysis.params import identity, value_of
from multirun_analysis.sweep import Trial
from multirun_analysis.words import entry, percent

HEIGHT = 340
MOST_AXES = 7  # of parameters; with more, names would overlap
BUNDLE = 0.014  # between two lines that meet in one value, of the axis' length
WIDEST_BUNDLE = 0.45  # of the way to the next value
RATE_TICKS = 5
SHOWN = "shown"  # the variable that report.js sets: names of the trials that the page's filter leaves


def parallel_figure(comparison: Comparison, say: Messages) -> list[Figure]:
    """The figure; none where fewer than two parameters vary: the chart of that parameter shows it all."""
    scales = [Scale(param, comparison.distinct(param), say) for param in comparison.charted[:MOST_AXES]]
    if len(scales) < 2:
        return []
    trials = sorted(comparison.sweep.finished, key=lambda trial: -trial.rate)  # the best lines are drawn last, on top
    worst, best = trials[0].rate, trials[-1].rate
    places = {scale.name: _places(scale, trials) for scale in scales}
    axis = f"{say.rate} %"
    places[axis] = {trial: _share(trial.rate, best, worst) for trial in trials}
    lines = [
        {"axis": name, "order": order, "place": place[trial], **_told(trial, comparison, say)}
        for trial in trials
        for order, (name, place) in enumerate(places.items())
    ]
    ticks = [tick for scale in scales for tick in _ticks(scale)]
    for step in range(RATE_TICKS):
        place = step / (RATE_TICKS - 1)
        ticks.append({"axis": axis, "place": place, "word": f"{100 * (best + place * (worst - best)):.1f}"})
    shown = {"name": SHOWN, "value": []}
    spec = drawn(_layers(lines, ticks, list(places), say), [], HEIGHT, [shown], rows=True)
    return [Figure("parallel", say("parallel.title"), say("parallel.caption"), spec, wide=True)]


def _told(trial: Trial, comparison: Comparison, say: Messages) -> Point:
    return {
        "name": trial.name,
        "trial": entry(trial, comparison.swept, say),
        "strict": percent(trial.rate, 2),
        "rate": 100 * trial.rate,
    }


def _places(scale: Scale, trials: list[Trial]) -> dict[Trial, float]:
    """Where each trial's line crosses the axis: at its value, beside those that share it, the better ones lower."""
    at: dict[str, list[Trial]] = defaultdict(list)
    for trial in trials:
        at[identity(value_of(trial, scale.param))].append(trial)
    gap = 1 / max(1, len(scale.values) - 1)
    places = {}
    for value in scale.values:
        bundle = sorted(at[identity(value)], key=lambda trial: trial.rate)
        step = min(BUNDLE, WIDEST_BUNDLE * gap / len(bundle))
        for number, trial in enumerate(bundle):
            places[trial] = _position(scale, value) + step * (number - (len(bundle) - 1) / 2)
    return places


def _position(scale: Scale, value: Any) -> float:
    """0 to 1: few values lie at equal distances, many numbers where they belong."""
    if not scale.gradient:
        known = [identity(one) for one in scale.values]
        return known.index(identity(value)) / max(1, len(known) - 1)
    bend = math.log if scale.param in LOG_BASES else float
    return _share(bend(value), bend(scale.values[0]), bend(scale.values[-1]))


def _share(value: float, low: float, high: float) -> float:
    return (value - low) / (high - low) if high > low else 0.5


def _ticks(scale: Scale) -> list[Point]:
    named = scale.values if not scale.many else [scale.values[0], scale.values[-1]]
    return [{"axis": scale.name, "place": _position(scale, value), "word": scale.word(value)} for value in named]


def _layers(lines: list[Point], ticks: list[Point], names: list[str], say: Messages) -> list[Spec]:
    """Lines, then the axes' values on a halo."""
    axis = {
        **{"orient": "top", "labelAngle": 0, "labelExpr": "split(datum.label, ' ')"},
        **{"grid": True, "domain": False, "ticks": False},
    }
    x = nominal("axis", sort=names, title=None, axis=axis, scale={"padding": 0.25})
    y = quantity("place", axis=None, scale={"domain": [-0.12, 1.12], "nice": False})
    under = {"type": "point", "fields": ["name"], "on": "pointerover", "clear": "pointerout"}
    is_left = f"!length({SHOWN}) || indexof({SHOWN}, datum.name) >= 0"
    encoding = {
        "x": x,
        "y": y,
        "detail": nominal("name"),
        "order": quantity("order"),
        "color": quantity("rate", scale={"range": "ramp", "reverse": True}, legend=None),
        "opacity": {"condition": {"test": is_left, "value": 0.85}, "value": 0.06},
        "strokeWidth": {"condition": {"param": "hovered", "empty": False, "value": 4}, "value": 1.7},
    }
    trials = layer(lines, "line", encoding, interpolate="monotone")
    # Nobody hits a thin line: over it lies a wide one that is not seen.
    told: Spec = {key: encoding[key] for key in ("x", "y", "detail", "order")}
    told |= {"tooltip": tips(trial=say("board.trial"), strict=say.rate)}
    hovered = {"name": "hovered", "select": under}
    look = {"strokeWidth": 13, "opacity": 0, "cursor": "pointer", "interpolate": "monotone"}
    words = {"x": x, "y": y, "text": nominal("word")}
    return [
        trials,
        *(layer(ticks, "text", words, align="left", dx=7, fontSize=12, style=style) for style in ("halo", "tick")),
        layer(lines, "line", told, hovered, **look),
    ]
