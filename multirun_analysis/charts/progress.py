"""The error rate against what a trial costs, with its Pareto line; and the best so far over the sweep's trials."""

from __future__ import annotations

from itertools import accumulate

from multirun_analysis.analysis import Analysis
from multirun_analysis.charts.figure import Figure, Point, Spec, drawn, layer, quantity, rate_axis, tips
from multirun_analysis.messages import Messages
from multirun_analysis.sweep import Trial
from multirun_analysis.words import duration, entry, percent

COSTS = {
    "trainable_parameters": "progress.trainable_parameters",
    "train_seconds": "progress.train_seconds",
    "decode_seconds": "progress.decode_seconds",
}
FEWEST = 3  # of fewer trials neither line says anything


def progress_figures(analysis: Analysis, say: Messages) -> list[Figure]:
    """Both figures; the first is left out where no cost differs, both for a few trials."""
    if len(analysis.sweep.finished) < FEWEST:
        return []
    return [*_cost_figure(analysis, say), _best_so_far(analysis, say)]


def _cost_figure(analysis: Analysis, say: Messages) -> list[Figure]:
    trials = analysis.sweep.finished
    costs = [cost for cost in COSTS if len({_of(trial, cost) for trial in trials} - {None}) > 1]
    if not costs:
        return []
    points = [_point(trial, cost, analysis, say) for cost in costs for trial in trials if _of(trial, cost) is not None]
    line = [point for cost in costs for point in _pareto([one for one in points if one["cost"] == cost])]
    shown: Spec = {"transform": [{"filter": "datum.cost === cost"}]}
    place = {
        "x": quantity("x", title=None, axis={"format": "~s"}, scale={"zero": False}),
        "y": rate_axis(rate=say.rate),
    }
    told = {"tooltip": tips(trial=say("board.trial"), strict=say.rate, told=say("progress.cost"))}
    layers = [
        layer(line, "line", place, strokeWidth=2, interpolate="step-after") | shown,
        layer(points, "point", place | told, filled=True, size=64, style="plain") | shown,
    ]
    labels = [say(COSTS[cost]) for cost in costs]
    chooser = {"input": "select", "options": costs, "labels": labels, "name": say("progress.choose") + " "}
    spec = drawn(layers, [], params=[{"name": "cost", "value": costs[0], "bind": chooser}])
    return [Figure("cost", say("progress.against"), say("progress.pareto"), spec)]


def _of(trial: Trial, cost: str) -> float | None:
    value = trial.record.get(cost)
    return float(value) if isinstance(value, int | float) and value > 0 else None


def _point(trial: Trial, cost: str, analysis: Analysis, say: Messages) -> Point:
    value = _of(trial, cost)
    assert value is not None
    told = duration(value) if cost.endswith("_seconds") else f"{value:,.0f}"
    return _scored(trial, analysis, say) | {"cost": cost, "x": value, "told": told}


def _scored(trial: Trial, analysis: Analysis, say: Messages) -> Point:
    title = entry(trial, analysis.swept, say)
    return {"cer": 100 * trial.rate, "strict": percent(trial.rate, 2), "trial": title}


def _pareto(points: list[Point]) -> list[Point]:
    """The points to which none is both cheaper and better, the cheapest first."""
    ordered = sorted(points, key=lambda point: (point["x"], point["cer"]))
    before = accumulate((point["cer"] for point in ordered), min, initial=float("inf"))
    return [point for point, lowest in zip(ordered, before, strict=False) if point["cer"] < lowest]


def _numbers(analysis: Analysis) -> dict[Trial, int]:
    """The finished trials with their numbers; counted where their folders are no numbers."""
    trials = analysis.sweep.finished
    if all(trial.name.isdecimal() for trial in trials):
        return {trial: int(trial.name) for trial in trials}
    return {trial: number for number, trial in enumerate(trials)}


def _best_so_far(analysis: Analysis, say: Messages) -> Figure:
    points = [_scored(trial, analysis, say) | {"x": n} for trial, n in _numbers(analysis).items()]
    lowest = accumulate((point["cer"] for point in points), min)
    line = [{"x": point["x"], "cer": best} for point, best in zip(points, lowest, strict=True)]
    place = {
        "x": quantity("x", title=say("progress.trials"), axis={"tickMinStep": 1, "labelSeparation": 8}),
        "y": rate_axis(rate=say.rate),
    }
    told = {"tooltip": tips(trial=say("board.trial"), strict=say.rate)}
    layers = [
        layer(line, "line", place, strokeWidth=2, interpolate="step-after"),
        layer(points, "point", place | told, filled=True, size=40, opacity=0.6, style="plain"),
    ]
    return Figure("best-so-far", say("progress.best"), say("progress.best_caption"), drawn(layers, []))
