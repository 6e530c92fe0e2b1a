"""Charts of training and validation loss, one line per adapter (not per trial: decoding does not change a loss)."""

from __future__ import annotations

import math

import altair as alt

from multirun_analysis.analysis import Analysis
from multirun_analysis.charts.figure import Figure, Point, chart_of, drawn
from multirun_analysis.compare import Adapter
from multirun_analysis.messages import Messages
from multirun_analysis.words import adapter_name

MOST_POINTS = 150  # of one line; longer curves are averaged over runs of neighbouring steps
LOG_FROM_RATIO = 20  # losses that span more than this are drawn on a log axis
NAMED = 10  # from so many adapters on, ten colours would repeat


def loss_figures(analysis: Analysis, say: Messages) -> list[Figure]:
    """A figure for the training and one for the validation loss; none for a split that was not logged."""
    figures = []
    names = [adapter_name(adapter, analysis, say) for adapter in analysis.adapters]
    for split in ("train", "val"):
        lines = [_line(adapter, name, split) for adapter, name in zip(analysis.adapters, names, strict=True)]
        points = [point for line in lines for point in line]
        if points:
            figures.append(_figure(split, points, list(dict.fromkeys(names)), analysis, say))
    return figures


def _line(adapter: Adapter, name: str, split: str) -> list[Point]:
    logged = [(row["step"], float(row["loss"])) for row in adapter.source.losses(split)]
    every = math.ceil(len(logged) / MOST_POINTS) or 1
    runs = [logged[start : start + every] for start in range(0, len(logged), every)]
    return [
        {
            "step": run[-1][0],
            "loss": round(sum(loss for _, loss in run) / len(run), 5),
            "adapter": name,
            "signature": adapter.signature,
        }
        for run in runs
    ]


def _figure(split: str, points: list[Point], names: list[str], analysis: Analysis, say: Messages) -> Figure:
    several = len(names) > 1
    told = [
        alt.Tooltip("adapter:N", title=say("loss.adapter")),
        alt.Tooltip("step:Q", title=say("loss.step")),
        alt.Tooltip("loss:Q", title=say("loss.loss"), format=".4f"),
    ]
    x, y = _axes([point["loss"] for point in points], say)
    colour = alt.Color(
        "adapter:N",
        title=None,
        sort=names,
        scale=alt.Scale(scheme="category20") if len(names) > NAMED else alt.Undefined,
        legend=alt.Undefined if several else None,
    )
    picked = alt.selection_point(fields=["adapter"], bind="legend")
    shown = 0.9 if split == "val" else 0.0  # every point of a training curve carries a tooltip, but would hide the line
    chart = chart_of(points).encode(color=colour, detail="signature:N", x=x, y=y)
    lines = chart.mark_line(strokeWidth=1.8).add_params(picked)
    fading = alt.condition(picked, alt.value(0.9), alt.value(0.1))
    dots = chart.mark_point(filled=True, size=26).encode(
        opacity=alt.condition(picked, alt.value(shown), alt.value(0.0)), tooltip=told
    )
    layers = [lines.encode(opacity=fading) if several else lines, dots]
    caption = say("loss.caption" if several else "loss.one", n=len(analysis.adapters))
    turned = _turned(analysis, say) if split == "val" else []
    if turned:
        ring = chart_of(turned).mark_point(size=190, strokeWidth=2, style="ring")
        layers.append(ring.encode(x=x, y=y, tooltip=told))
        caption += " " + say("loss.marked")
    return Figure(f"{split}-loss", say(f"loss.{split}"), caption, drawn(layers, names))


def _turned(analysis: Analysis, say: Messages) -> list[Point]:
    """Where the validation loss of each overfitted adapter was lowest."""
    return [
        {"step": one.best_step, "loss": one.best_loss, "adapter": adapter_name(one.adapter, analysis, say)}
        for one in analysis.statistics.overfitting
        if one.kind == "turned"
    ]


def _axes(losses: list[float], say: Messages) -> tuple[alt.X, alt.Y]:
    wide = min(losses) > 0 and max(losses) / min(losses) > LOG_FROM_RATIO
    scale = alt.Scale(type="log" if wide else "linear", zero=False)
    return (
        alt.X("step:Q", title=say("loss.step"), axis=alt.Axis(grid=False, tickCount=6), scale=alt.Scale(zero=True)),
        alt.Y("loss:Q", title=say("loss.loss"), axis=alt.Axis(tickCount=5), scale=scale),
    )
