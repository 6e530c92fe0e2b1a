"""Kinds of errors side by side: the best trials, the recommended one and the zero-shot base."""

from __future__ import annotations

from collections import Counter

from multirun_analysis.analysis import Analysis
from multirun_analysis.charts.figure import Figure, Point, drawn, layer, nominal, quantity, tips
from multirun_analysis.charts.scales import Scale
from multirun_analysis.messages import Messages
from multirun_analysis.params import is_of_base, value_of
from multirun_analysis.sweep import Trial
from multirun_analysis.words import param_name, percent

MOST_TRIALS = 4
ROW = 42


def category_table(analysis: Analysis, say: Messages) -> tuple[list[tuple[str, Trial]], list[str]]:
    """The trials worth comparing with their labels, and the categories that occur among them.

    The most frequent category is the first one, "other" the last; none where no scores.json has categories.
    """
    trials = [row.trial for row in analysis.rows if not row.trial.is_base][:MOST_TRIALS]
    recommended = analysis.statistics.recommended
    trials += [recommended] if recommended not in trials else []
    base = analysis.best.base or analysis.lowest_base
    trials += [base] if base else []
    total: Counter[str] = Counter()
    for trial in trials:
        total.update(trial.categories)
    used = sorted((key for key in total if total[key]), key=lambda key: (key == "other", -total[key]))
    rows = [
        (_label(trial, analysis, say), trial) for trial in trials if isinstance(trial.record.get("categories"), dict)
    ]
    return rows, used


def category_figure(analysis: Analysis, say: Messages) -> list[Figure]:
    """The figure; none where no scores.json has categories."""
    rows, categories = category_table(analysis, say)
    if not categories:
        return []
    points = [point for label, trial in rows for point in _points(label, trial, categories, say)]
    names = [category_name(key, say) for key in categories]
    labels = [label for label, _ in rows]
    told = {"row": "board.trial", "category": "category.name", "count": "category.edits", "share": "category.share"}
    axis = {"labelLimit": 190, "ticks": False, "domain": False}
    encoding = {
        "y": nominal("row", sort=labels, title=None, axis=axis),
        "x": quantity("rate", title=say("category.axis"), axis={"tickCount": 6}),
        "color": nominal("category", sort=names, title=None),
        "order": quantity("order"),
        "tooltip": tips(**{field: say(key) for field, key in told.items()}),
    }
    bars = layer(points, "bar", encoding, height={"band": 0.7}, style="piece")
    shown = [param_name(param, say) for param in analysis.swept]
    caption = say("category.caption") + (f" ({' · '.join(shown)})" if shown else "")
    return [Figure("categories", say("category.title"), caption, drawn([bars], names, ROW * len(labels)), wide=True)]


def category_name(key: str, say: Messages) -> str:
    """A category in plain words; a newer scorer's is shown as it is written."""
    return say.get(f"category.{key}", key)


def _points(label: str, trial: Trial, categories: list[str], say: Messages) -> list[Point]:
    chars = trial.record.get("num_reference_chars") or 1
    edits = sum(trial.categories.values()) or 1
    counts = [trial.categories.get(key, 0) for key in categories]
    return [
        {
            "row": label,
            "category": category_name(key, say),
            "order": order,
            "rate": 100 * count / chars,
            "count": f"{count:g}",
            "share": percent(count / edits, 0),
        }
        for order, (key, count) in enumerate(zip(categories, counts, strict=True))
    ]


def _label(trial: Trial, analysis: Analysis, say: Messages) -> str:
    """Short enough for a phone: the values alone, in the order of the leaderboard's columns."""
    params = [param for param in analysis.swept if not trial.is_base or is_of_base(param)]
    values = [Scale(param, analysis.distinct(param), say).word(value_of(trial, param)) for param in params]
    if trial.is_base:
        values = [say("base.short"), *values]
    return " · ".join(values) or trial.label
