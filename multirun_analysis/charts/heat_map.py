"""The heat map of LoRA rank and learning rate."""

from __future__ import annotations

from multirun_analysis.charts.figure import Figure, Point, Spec, drawn, layer, nominal, ordinal, quantity, tips
from multirun_analysis.charts.scales import Scale
from multirun_analysis.compare import Comparison
from multirun_analysis.messages import Messages
from multirun_analysis.params import value_of
from multirun_analysis.sweep import Trial
from multirun_analysis.words import entry, percent, short_key, show

LIGHT_INK_FROM = 0.66  # of the way from the worst to the best cell, where the ramp becomes too strong for plain ink
MOST_CELLS = 12  # in a row or column: more have no room for their figures
RANK, RATE = "lora.r", "optim.lr"


def heat_map(comparison: Comparison, say: Messages) -> list[Figure]:
    """The lowest error rate of each pair of rank and learning rate, over all else; none where one does not vary,
    or has too many values for a cell each.
    """
    if not {RANK, RATE} <= set(comparison.charted):
        return []
    if max(len(comparison.distinct(name)) for name in (RANK, RATE)) > MOST_CELLS:
        return []
    lowest: dict[tuple[str, str], Trial] = {}
    for trial in comparison.sweep.finished:
        pair = (show(value_of(trial, RANK)), show(value_of(trial, RATE)))
        lowest[pair] = min(lowest.get(pair, trial), trial, key=lambda t: t.rate)
    points = [
        {"rank": r, "rate": lr, "cer": 100 * t.rate, "word": f"{100 * t.rate:.1f}"}
        | {"trial": entry(t, comparison.swept, say), "strict": percent(t.rate, 2)}
        for (r, lr), t in lowest.items()
    ]
    others = [short_key(param) for param in comparison.charted if param not in (RANK, RATE)]
    caption = say("heat.caption_over", others=say.listed(others)) if others else say("heat.caption")
    rank, rate = (Scale(name, comparison.distinct(name), say) for name in (RANK, RATE))
    return [Figure("heat-map", say("heat.title"), caption, drawn(_cells(points, rank, rate, say), []))]


def _cells(points: list[Point], rank: Scale, rate: Scale, say: Messages) -> list[Spec]:
    places = {
        "x": ordinal("rate", title=rate.title, sort=rate.words, axis={"labelAngle": 0}),
        "y": ordinal("rank", title=rank.title, sort=rank.words[::-1]),
        "tooltip": tips(trial=say("charts.best_trial"), strict=say.rate),
    }
    shade = quantity("cer", scale={"range": "heatmap", "reverse": True}, legend=None)
    layers = [layer(points, "rect", places | {"color": shade})]
    cers = [point["cer"] for point in points]
    strong = max(cers) - LIGHT_INK_FROM * (max(cers) - min(cers))
    for style, inked in {
        "on-strong": [point for point in points if point["cer"] <= strong],
        "on-weak": [point for point in points if point["cer"] > strong],
    }.items():
        written = places | {"text": nominal("word")}
        layers.append(layer(inked, "text", written, fontSize=14, fontWeight="bold", style=style))
    return layers
