"""CER against the text temperature with every repeat of sampling, its mean and its spread."""

from __future__ import annotations

from statistics import fmean, stdev

from multirun_analysis.charts.figure import Figure, Point, Spec, drawn, layer, nominal, rate_axis, tips
from multirun_analysis.charts.scales import Scale
from multirun_analysis.charts.short_values import adapter_names
from multirun_analysis.compare import Adapter, Comparison
from multirun_analysis.messages import Messages
from multirun_analysis.params import identity, value_of
from multirun_analysis.words import percent

PARAM = "decoding.text_temperature"


def repeats_figure(comparison: Comparison, say: Messages) -> list[Figure]:
    """The figure; none unless the temperature varies and some trial was sampled several times."""
    trials = comparison.sweep.finished
    if PARAM not in comparison.charted or not any(len(trial.repeats) > 1 for trial in trials):
        return []
    scale = Scale(PARAM, comparison.distinct(PARAM), say)
    best = next(adapter for adapter in comparison.adapters if comparison.best.trial in adapter.trials)
    others = [adapter for adapter in comparison.adapters if adapter is not best]
    names = adapter_names(comparison, say)
    layers = []
    for adapters, style, size in ((others, "faint", 14), ([best], "plain", 42)):
        points = [_points(adapter, names[adapter.signature], scale) for adapter in adapters]
        dots = [dot for some, _ in points for dot in some]
        means = [mean for _, some in points for mean in some]
        if style == "plain":
            spread = {"x": scale.x(), "y": rate_axis("low"), "y2": {"field": "high"}}
            layers.append(layer(means, "area", spread, opacity=0.18, style=style))
        if dots:
            layers += _line_and_dots(means, dots, scale, style, size, say)
    return [Figure("repeats", say("repeats.title"), say("repeats.caption"), drawn(layers, []))]


def _points(adapter: Adapter, name: str, scale: Scale) -> tuple[list[Point], list[Point]]:
    """Every repeat of the adapter's trials, and their mean and spread at each temperature it was decoded with."""
    dots, means = [], []
    for value in scale.values:
        same = [trial for trial in adapter.trials if identity(value_of(trial, PARAM)) == identity(value)]
        rates = [rate for trial in same for rate in trial.repeats]
        if not rates:
            continue
        at = {"x": scale.position(value), "adapter": name}
        dots += [
            at | {"cer": 100 * rate, "repeat": number, "strict": percent(rate, 2)}
            for number, rate in enumerate(rates, start=1)
        ]
        mean, std = 100 * fmean(rates), 100 * stdev(rates) if len(rates) > 1 else 0.0
        spread = {"low": mean - std, "high": mean + std, "std": f"{std:.2f} %"}
        means.append(at | {"cer": mean, "mean": f"{mean:.2f} %"} | spread)
    return dots, means


def _line_and_dots(
    means: list[Point], dots: list[Point], scale: Scale, style: str, size: int, say: Messages
) -> list[Spec]:
    width, opacity = (2.5, 0.9) if style == "plain" else (1.0, 0.45)
    mean_tips = tips(adapter=say("loss.adapter"), mean=say("repeats.mean"), std=say("repeats.std"))
    dot_tips = tips(adapter=say("loss.adapter"), repeat=say("repeats.repeat"), strict="CER")
    places: Spec = {"x": scale.x(), "y": rate_axis()}
    line = places | {"detail": nominal("adapter"), "tooltip": mean_tips}
    return [
        layer(means, "line", line, strokeWidth=width, opacity=opacity, style=style),
        layer(dots, "point", places | {"tooltip": dot_tips}, filled=True, size=size, opacity=opacity, style=style),
    ]
