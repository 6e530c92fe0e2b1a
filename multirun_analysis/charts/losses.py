"""Charts of losses and gradient norms, one line per adapter (not per trial: decoding changes neither)."""

from __future__ import annotations

import math

from multirun_analysis.analysis import Analysis
from multirun_analysis.charts.figure import (
    Figure,
    Point,
    Spec,
    drawn,
    if_picked,
    layer,
    nominal,
    picked_in_legend,
    quantity,
    series,
)
from multirun_analysis.charts.short_values import adapter_names
from multirun_analysis.compare import Adapter
from multirun_analysis.messages import Messages

SPLITS = ("train", "val")
TITLES = {"train-loss": "loss.train", "val-loss": "loss.val", "grad-norm": "loss.norm"}
VALUES = {"loss": "loss.loss", "grad_norm": "loss.grad_norm"}
MOST_POINTS = 150  # of one line; longer curves are averaged over runs of neighbouring steps
LOG_FROM_RATIO = 20  # values that span more than this are drawn on a log axis


def loss_figures(analysis: Analysis, say: Messages) -> list[Figure]:
    """A figure for the training and one for the validation loss, and for the norm of gradients; none without points."""
    figures = []
    names = adapter_names(analysis, say)
    named = [(adapter, names[adapter.signature]) for adapter in analysis.adapters]
    points = {split: [point for adapter, name in named for point in _line(adapter, name, split)] for split in SPLITS}
    axes = _axes([point for some in points.values() for point in some], say)
    for split, some in points.items():
        if some:
            figures.append(_figure(f"{split}-loss", some, axes, names, analysis, say))
    norms = [point for adapter, name in named for point in _line(adapter, name, "train", "grad_norm")]
    if norms:
        axes = _axes(norms, say, "grad_norm")
        figures.append(_figure("grad-norm", norms, axes, names, analysis, say, "grad_norm"))
    return figures


def _line(adapter: Adapter, name: str, split: str, what: str = "loss") -> list[Point]:
    rows = adapter.source.losses(split)  # curves of earlier versions have no norm
    logged = [(row["step"], float(row[what])) for row in rows if isinstance(row.get(what), int | float)]
    every = math.ceil(len(logged) / MOST_POINTS) or 1
    runs = [logged[start : start + every] for start in range(0, len(logged), every)]
    return [
        {
            "step": run[-1][0],
            what: round(sum(value for _, value in run) / len(run), 5),
            "adapter": name,
            "signature": adapter.signature,
        }
        for run in runs
    ]


def _figure(
    key: str,
    points: list[Point],
    axes: Spec,
    names: dict[str, str],
    analysis: Analysis,
    say: Messages,
    what: str = "loss",
) -> Figure:
    different = list(dict.fromkeys(names.values()))
    several = len(different) > 1
    told = [
        nominal("adapter", title=say("loss.adapter")),
        quantity("step", title=say("loss.step")),
        quantity(what, title=say(VALUES[what]), format=".4f"),
    ]
    # Points are seen among validation losses alone: elsewhere the legend has lines, with their dashes.
    has_points = key == "val-loss"
    marks = ("line", "point") if has_points else ("line", "line")
    legend: Spec | None = ({} if has_points else {"symbolType": "stroke"}) if several else None
    line, points_of = (
        axes | series(mark, "adapter", different, title=None, legend=legend) | {"detail": nominal("signature")}
        for mark in marks
    )
    fading = {"opacity": if_picked(0.9, otherwise=0.1)} if several else {}
    shown = 0.9 if has_points else 0.0  # those of a training curve would hide it; they carry tooltips
    dots = points_of | {"opacity": if_picked(shown, otherwise=0.0), "tooltip": told}
    layers = [
        layer(points, "line", line | fading, picked_in_legend("adapter"), strokeWidth=1.8),
        layer(points, "point", dots, filled=True, size=26),
    ]
    caption = say("loss.caption" if several else "loss.one", n=len(analysis.adapters))
    turned = _turned(analysis, names) if has_points else []
    if turned:
        layers.append(layer(turned, "point", axes | {"tooltip": told}, size=190, strokeWidth=2, style="ring"))
        caption += " " + say("loss.marked")
    return Figure(key, say(TITLES[key]), caption, drawn(layers, different))


def _turned(analysis: Analysis, names: dict[str, str]) -> list[Point]:
    """Where the validation loss of each overfitted adapter was lowest."""
    return [
        {"step": one.best_step, "loss": one.best_loss, "adapter": names[one.adapter.signature]}
        for one in analysis.statistics.overfitting
        if one.kind == "turned"
    ]


def _axes(points: list[Point], say: Messages, what: str = "loss") -> Spec:
    """The same for the losses of both splits, so that they can be compared."""
    values, last = [point[what] for point in points], max((point["step"] for point in points), default=1)
    low, high = min(values, default=0.0), max(values, default=1.0)
    wide = low > 0 and high / low > LOG_FROM_RATIO
    scale = {"type": "log" if wide else "linear", "zero": False, "domain": [low, high], "nice": True}
    steps = {"domain": [0, last]}
    return {
        "x": quantity("step", title=say("loss.step"), axis={"grid": False, "tickCount": 6}, scale=steps),
        "y": quantity(what, title=say(VALUES[what]), axis={"tickCount": 5}, scale=scale),
    }
