"""Kinds of errors side by side: the best trials, the recommended one and the zero-shot base."""

from __future__ import annotations

from dataclasses import dataclass

import altair as alt

from multirun_analysis.analysis import Analysis
from multirun_analysis.charts.figure import Figure, Point, chart_of, drawn, tips
from multirun_analysis.messages import Messages
from multirun_analysis.params import is_of_base, value_of
from multirun_analysis.sweep import Trial
from multirun_analysis.words import param_name, percent, shown

MOST_TRIALS = 4
ROW = 42


@dataclass(frozen=True)
class CategoryRow:
    """The errors of a trial or a base by category; ``counts`` are means over the repeats."""

    label: str
    trial: Trial
    counts: dict[str, float]


@dataclass(frozen=True)
class CategoryTable:
    """Rows, and the categories that occur, the most frequent ones of the first row first ("other" last)."""

    rows: list[CategoryRow]
    categories: list[str]


def category_table(analysis: Analysis, say: Messages) -> CategoryTable | None:
    """Counts of the trials worth comparing; None where no scores.json has categories (older sweeps)."""
    trials = [row.trial for row in analysis.rows if not row.trial.is_base][:MOST_TRIALS]
    recommended = analysis.statistics.recommended
    trials += [recommended] if recommended not in trials else []
    base = analysis.best.base or analysis.lowest_base
    rows = [
        CategoryRow(_label(trial, analysis, say), trial, trial.record["categories"])
        for trial in [*trials, *([base] if base else [])]
        if isinstance(trial.record.get("categories"), dict)
    ]
    if not rows or not any(sum(row.counts.values()) for row in rows):
        return None
    total = {key: sum(row.counts.get(key, 0) for row in rows) for row in rows for key in row.counts}
    used = [key for key, count in total.items() if count]
    return CategoryTable(rows, sorted(used, key=lambda key: (key == "other", -total[key])))


def category_figure(analysis: Analysis, say: Messages) -> list[Figure]:
    """The figure; none where no scores.json has categories."""
    table = category_table(analysis, say)
    if table is None:
        return []
    points = [point for row in table.rows for point in _points(row, table, say)]
    names = [category_name(key, say) for key in table.categories]
    labels = [row.label for row in table.rows]
    chart = chart_of(points).mark_bar(height={"band": 0.7})
    chart = chart.encode(
        y=alt.Y("row:N", sort=labels, title=None, axis=alt.Axis(labelLimit=190, ticks=False, domain=False)),
        x=alt.X("rate:Q", title=say("category.axis"), axis=alt.Axis(tickCount=6)),
        color=alt.Color("category:N", sort=names, title=None),
        order="order:Q",
        tooltip=tips(
            row=say("board.trial"),
            category=say("category.name"),
            count=say("category.edits"),
            share=say("category.share"),
        ),
    )
    shown = [param_name(param, say) for param in analysis.swept]
    caption = say("category.caption") + (f" ({' · '.join(shown)})" if shown else "")
    return [Figure("categories", say("category.title"), caption, drawn([chart], names, ROW * len(labels)), wide=True)]


def category_name(key: str, say: Messages) -> str:
    """A category in plain words; a newer scorer's is shown as it is written."""
    return say.get(f"category.{key}", key)


def _points(row: CategoryRow, table: CategoryTable, say: Messages) -> list[Point]:
    chars = row.trial.record.get("num_reference_chars") or 1
    edits = sum(row.counts.values()) or 1
    return [
        {
            "row": row.label,
            "category": category_name(key, say),
            "order": order,
            "rate": 100 * row.counts.get(key, 0) / chars,
            "count": f"{row.counts.get(key, 0):g}",
            "share": percent(row.counts.get(key, 0) / edits, 0),
        }
        for order, key in enumerate(table.categories)
    ]


def _label(trial: Trial, analysis: Analysis, say: Messages) -> str:
    """Short enough for a phone: the values alone, in the order of the leaderboard's columns."""
    params = [param for param in analysis.swept if not trial.is_base or is_of_base(param)]
    values = [shown(param, value_of(trial, param), say) for param in params]
    if trial.is_base:
        values = [say("base.short"), *values]
    return " · ".join(values) or trial.label
