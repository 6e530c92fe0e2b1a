"""Charts of training and validation loss, one line per adapter (not per trial: decoding does not change a loss)."""

from __future__ import annotations

import math
from typing import Any, Literal

import altair as alt

from multirun_analysis.analysis import Analysis
from multirun_analysis.charts.figure import Figure, Point, chart_of, drawn
from multirun_analysis.compare import Adapter
from multirun_analysis.messages import Messages
from multirun_analysis.words import adapter_name

MOST_POINTS = 150  # of one line; longer curves are averaged over runs of neighbouring steps
LOG_FROM_RATIO = 20  # losses that span more than this are drawn on a log axis
SPLITS = ("train", "val")
NAMED = 10  # from so many adapters on, ten colours would repeat


def loss_figures(analysis: Analysis, say: Messages) -> list[Figure]:
    """A figure for the training and one for the validation loss; none for a split that was not logged."""
    figures = []
    for split in SPLITS:
        names = [adapter_name(adapter, analysis, say) for adapter in analysis.adapters]
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
    losses = [point["loss"] for point in points]
    kind: Literal["log", "linear"] = (
        "log" if min(losses) > 0 and max(losses) / min(losses) > LOG_FROM_RATIO else "linear"
    )
    picked = alt.selection_point(fields=["adapter"], bind="legend")
    scheme: dict[str, Any] = {"scale": alt.Scale(scheme="category20")} if len(names) > NAMED else {}
    legend: dict[str, Any] = {"legend": None} if len(names) == 1 else {}
    tips = [
        alt.Tooltip("adapter:N", title=say("loss.adapter")),
        alt.Tooltip("step:Q", title=say("loss.step")),
        alt.Tooltip("loss:Q", title=say("loss.loss"), format=".4f"),
    ]
    shown = 0.9 if split == "val" else 0.0  # every point of a training curve carries a tooltip, but would hide the line
    x, y = _axes(kind, say)
    colour = alt.Color("adapter:N", title=None, sort=names, **scheme, **legend)
    chart = chart_of(points).encode(color=colour, detail="signature:N", x=x, y=y)
    fading = alt.condition(picked, alt.value(0.9), alt.value(0.1))
    lines = chart.mark_line(strokeWidth=1.8)
    dots = chart.mark_point(filled=True, size=26).encode(
        opacity=alt.condition(picked, alt.value(shown), alt.value(0.0)), tooltip=tips
    )
    lines = lines.encode(opacity=fading) if len(names) > 1 else lines
    turned = _turned(analysis, say) if split == "val" else []
    marks = [_ring(turned).encode(x=x, y=y, tooltip=tips)] if turned else []
    caption = say("loss.caption" if len(names) > 1 else "loss.one", n=len(analysis.adapters))
    caption += " " + say("loss.marked") if turned else ""
    spec = drawn([lines.add_params(picked), dots, *marks], names)
    return Figure(f"{split}-loss", say(f"loss.{split}"), caption, spec)


def _turned(analysis: Analysis, say: Messages) -> list[Point]:
    """Where the validation loss of each overfitted adapter was lowest."""
    return [
        {
            "step": verdict.best_step,
            "loss": verdict.best_loss,
            "adapter": adapter_name(verdict.adapter, analysis, say),
        }
        for verdict in analysis.statistics.overfitting
        if verdict.kind == "turned"
    ]


def _ring(turned: list[Point]) -> alt.Chart:
    return chart_of(turned).mark_point(size=190, strokeWidth=2, style="ring")


def _axes(kind: Literal["log", "linear"], say: Messages) -> tuple[alt.X, alt.Y]:
    steps, losses = alt.Axis(grid=False, tickCount=6), alt.Axis(tickCount=5)
    return (
        alt.X("step:Q", title=say("loss.step"), axis=steps, scale=alt.Scale(zero=True)),
        alt.Y("loss:Q", title=say("loss.loss"), axis=losses, scale=alt.Scale(type=kind, zero=False)),
    )
