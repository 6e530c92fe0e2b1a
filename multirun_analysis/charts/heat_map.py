"""The heat map of LoRA rank and learning rate."""

from __future__ import annotations

import altair as alt

from multirun_analysis.charts.figure import Figure, Point, chart_of, drawn, tips
from multirun_analysis.charts.scales import Scale
from multirun_analysis.compare import Comparison
from multirun_analysis.messages import Messages
from multirun_analysis.params import value_of
from multirun_analysis.sweep import Trial
from multirun_analysis.words import percent, short_key, show, trial_title

LIGHT_INK_FROM = 0.66  # of the way from the worst to the best cell, where the ramp becomes too strong for plain ink
RANK, RATE = "lora.r", "optim.lr"


def heat_map(comparison: Comparison, say: Messages) -> list[Figure]:
    """The lowest CER of each pair of rank and learning rate, over everything else; none where one does not vary."""
    if not {RANK, RATE} <= set(comparison.charted):
        return []
    lowest: dict[tuple[str, str], Trial] = {}
    for trial in comparison.sweep.finished:
        pair = (show(value_of(trial, RANK)), show(value_of(trial, RATE)))
        lowest[pair] = min(lowest.get(pair, trial), trial, key=lambda t: t.cer)
    points = [
        {"rank": r, "rate": lr, "cer": 100 * t.cer, "word": f"{100 * t.cer:.1f}"}
        | {"trial": trial_title(t, comparison.swept, say), "strict": percent(t.cer, 2)}
        for (r, lr), t in lowest.items()
    ]
    others = [short_key(param) for param in comparison.charted if param not in (RANK, RATE)]
    caption = say("heat.caption_over", others=say.listed(others)) if others else say("heat.caption")
    rank, rate = (Scale(name, comparison.distinct(name), say) for name in (RANK, RATE))
    return [Figure("heat-map", say("heat.title"), caption, drawn(_cells(points, rank, rate, say), []))]


def _cells(points: list[Point], rank: Scale, rate: Scale, say: Messages) -> list[alt.Chart]:
    places = {
        "x": alt.X("rate:O", title=rate.title, sort=rate.words, axis=alt.Axis(labelAngle=0)),
        "y": alt.Y("rank:O", title=rank.title, sort=rank.words[::-1]),
    }
    told = tips(trial=say("charts.best_trial"), strict="CER")
    shade = alt.Color("cer:Q", scale=alt.Scale(range="heatmap", reverse=True), legend=None)
    layers = [chart_of(points).mark_rect().encode(color=shade, tooltip=told, **places)]
    cers = [point["cer"] for point in points]
    strong = max(cers) - LIGHT_INK_FROM * (max(cers) - min(cers))
    for style, inked in {
        "on-strong": [point for point in points if point["cer"] <= strong],
        "on-weak": [point for point in points if point["cer"] > strong],
    }.items():
        number = chart_of(inked).mark_text(fontSize=14, fontWeight="bold", style=style)
        layers.append(number.encode(text="word:N", tooltip=told, **places))
    return layers
