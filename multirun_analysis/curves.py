"""Charts of training and validation loss, one line per adapter (not per trial: decoding does not change a loss)."""

from __future__ import annotations

import math
from typing import Any, Literal

import altair as alt

from multirun_analysis.compare import Adapter, Comparison
from multirun_analysis.plots import Figure, drawn
from multirun_analysis.words import setting

MOST_POINTS = 150  # of one line; longer curves are averaged over runs of neighbouring steps
LOG_FROM_RATIO = 20  # losses that span more than this are drawn on a log axis
TITLES = {"train": "Training loss", "val": "Validation loss"}

Point = dict[str, Any]


def loss_figures(comparison: Comparison) -> list[Figure]:
    """A figure for the training and one for the validation loss; none for a split that was not logged."""
    trained = [param for param in comparison.swept if not param.startswith("decoding.")]
    figures = []
    for split, title in TITLES.items():
        names = [setting(adapter.source, trained) or "adapter" for adapter in comparison.adapters]
        lines = [_line(adapter, name, split) for adapter, name in zip(comparison.adapters, names, strict=True)]
        points = [point for line in lines for point in line]
        if points:
            figures.append(_figure(split, title, points, list(dict.fromkeys(names)), comparison))
    return figures


def _line(adapter: Adapter, name: str, split: str) -> list[Point]:
    logged = [
        (entry["step"], float(entry["loss"]))
        for entry in adapter.source.curves
        if entry.get("split") == split and entry.get("step") is not None and _is_number(entry.get("loss"))
    ]
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


def _is_number(loss: Any) -> bool:
    """A diverged adapter logs NaN; its line ends there."""
    return isinstance(loss, int | float) and math.isfinite(loss)


def _figure(split: str, title: str, points: list[Point], names: list[str], comparison: Comparison) -> Figure:
    losses = [point["loss"] for point in points]
    kind: Literal["log", "linear"] = (
        "log" if min(losses) > 0 and max(losses) / min(losses) > LOG_FROM_RATIO else "linear"
    )
    picked = alt.selection_point(fields=["adapter"], bind="legend")
    scheme: dict[str, Any] = {"scale": alt.Scale(scheme="category20")} if len(names) > 10 else {}
    legend: dict[str, Any] = {"legend": None} if len(names) == 1 else {}
    tips = [alt.Tooltip("adapter:N"), alt.Tooltip("step:Q"), alt.Tooltip("loss:Q", format=".4f")]
    shown = 0.9 if split == "val" else 0.0  # every point of a training curve carries a tooltip, but would hide the line
    chart = alt.Chart(alt.Data(values=points)).encode(
        x=alt.X("step:Q", title="step", scale=alt.Scale(zero=True), axis=alt.Axis(grid=False, tickCount=6)),
        y=alt.Y("loss:Q", title="loss", axis=alt.Axis(tickCount=5), scale=alt.Scale(type=kind, zero=False)),
        color=alt.Color("adapter:N", title=None, sort=names, **scheme, **legend),
        detail="signature:N",
    )
    lines = chart.mark_line(strokeWidth=1.8).encode(opacity=alt.condition(picked, alt.value(0.9), alt.value(0.1)))
    dots = chart.mark_point(filled=True, size=26).encode(
        opacity=alt.condition(picked, alt.value(shown), alt.value(0.0)), tooltip=tips
    )
    caption = f"One line per adapter ({len(comparison.adapters)}); a click on a name in the legend shows it alone."
    if len(names) == 1:
        caption = "One adapter." if len(comparison.adapters) == 1 else f"{len(comparison.adapters)} adapters."
        lines = chart.mark_line(strokeWidth=1.8)
    return Figure(f"{split}-loss", title, caption, drawn([lines.add_params(picked), dots], names))
