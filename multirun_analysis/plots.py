"""Vega-Lite charts of CER against the swept parameters; the theme's colours are in templates/report.js."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import altair as alt

from multirun_analysis.collect import Trial
from multirun_analysis.compare import Comparison, distinct, value_of
from multirun_analysis.words import param_name, percent, setting, short_key, show, trial_title

LOG_BASES = {"lora.r": 2, "lora.lora_alpha": 2, "optim.lr": 10}
MOST_LEVELS = 8  # more values than this get a colour gradient and an automatic axis, and no line through their means
HEIGHT = 280
LIGHT_INK_FROM = 0.66  # of the way from the worst to the best cell, where the ramp becomes too strong for plain ink

Point = dict[str, Any]


@dataclass(frozen=True)
class Figure:
    """A chart as a Vega-Lite specification, its heading and the sentence under it (both plain text)."""

    key: str
    title: str
    caption: str
    spec: dict[str, Any]


@dataclass(frozen=True)
class Scale:
    """One parameter as an axis or a colour: numbers on a (logarithmic) scale, everything else as words in order."""

    param: str
    values: list[Any]

    @property
    def numeric(self) -> bool:
        numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in self.values)
        return numbers and self.param != "seed" and (self.param not in LOG_BASES or min(self.values) > 0)

    @property
    def many(self) -> bool:
        return len(self.values) > MOST_LEVELS

    @property
    def title(self) -> str:
        name = param_name(self.param)
        return name if name == self.param else f"{name} ({self.param})"

    @property
    def words(self) -> list[str]:
        return [show(value) for value in self.values]

    def position(self, value: Any) -> Any:
        """Where ``value`` lies on the axis."""
        return value if self.numeric else show(value)

    def x(self) -> alt.X:
        if not self.numeric:
            return alt.X("x:O", title=self.title, sort=self.words, axis=alt.Axis(labelAngle=0))
        log: dict[str, Any] = {"type": "log", "base": LOG_BASES[self.param]} if self.param in LOG_BASES else {}
        ticks: dict[str, Any] = {} if self.many else {"values": self.values}
        label = "format(datum.value, datum.value && abs(datum.value) < 0.001 ? '~e' : '~g')"
        axis = alt.Axis(labelExpr=label, grid=False, labelFlush=False, **ticks)
        return alt.X("x:Q", title=self.title, axis=axis, scale=alt.Scale(zero=False, nice=False, padding=28, **log))

    @property
    def gradient(self) -> bool:
        """Whether colours run along the numbers instead of being one per value."""
        return self.many and self.numeric

    def colour_of(self, value: Any) -> Any:
        return value if self.gradient else show(value)

    def colour(self) -> alt.Color:
        if not self.gradient:
            return alt.Color("colour:N", title=param_name(self.param), sort=self.words)
        kind: Literal["log", "linear"] = "log" if self.param in LOG_BASES else "linear"
        return alt.Color("colour:Q", title=param_name(self.param), scale=alt.Scale(type=kind, scheme="viridis"))


def drawn(layers: list[alt.Chart], names: list[str]) -> dict[str, Any]:
    """The layers as one specification as wide as its place on the page.

    ``usermeta`` tells report.js how wide a legend entry is, so that the legend wraps on a phone.
    """
    meta = {"legendEntry": 26 + 7 * max((len(name) for name in names), default=0)}
    return alt.layer(*layers, usermeta=meta).properties(width="container", height=HEIGHT).to_dict()


def parameter_figures(comparison: Comparison) -> list[Figure]:
    """CER against each swept parameter, then the heat map of rank and learning rate when both vary."""
    figures = [_parameter_figure(comparison, param) for param in comparison.charted]
    if {"lora.r", "optim.lr"} <= set(comparison.charted):
        figures.append(_heat_map(comparison))
    return figures


def _parameter_figure(comparison: Comparison, param: str) -> Figure:
    scale = Scale(param, comparison.distinct(param))
    other = next((name for name in comparison.charted if name != param), None)
    colours = Scale(other, comparison.distinct(other)) if other else None
    points = [_point(comparison, trial, scale, colours) for trial in comparison.sweep.finished]
    layers = [_sibling_lines(points, scale, colours)] if colours else []
    if not scale.many and (colours is None or len(points) > len(scale.values)):
        layers.append(_mean_lines(points, scale, colours))
    layers += [_dots(points, scale, colours), _best_ring(points, scale), *_base_layers(comparison, scale)]
    spec = drawn(layers, colours.words if colours else [])
    return Figure(f"by-{param}", f"CER against {param_name(param)}", _caption(comparison, param), spec)


def _point(comparison: Comparison, trial: Trial, scale: Scale, colours: Scale | None) -> Point:
    others = [param for param in comparison.swept if param != scale.param]
    return {
        "x": scale.position(value_of(trial, scale.param)),
        "cer": 100 * trial.cer,
        "colour": colours.colour_of(value_of(trial, colours.param)) if colours else None,
        "siblings": setting(trial, others),
        "best": trial is comparison.best.trial,
        "trial": trial_title(trial, comparison.swept),
        "strict": percent(trial.cer, 2),
        "normalised": percent(trial.normalised.cer if trial.normalised else None, 2),
    }


def _chart(points: list[Point]) -> alt.Chart:
    return alt.Chart(alt.Data(values=points))


def _cer_axis(field: str = "cer:Q") -> alt.Y:
    return alt.Y(field, title="CER (%)", scale=alt.Scale(zero=False, nice=True))


def _tips(**titles: str) -> list[alt.Tooltip]:
    return [alt.Tooltip(f"{field}:N", title=title) for field, title in titles.items()]


def _dots(points: list[Point], scale: Scale, colours: Scale | None) -> alt.Chart:
    """Trials as points; a click on the legend fades the others."""
    tips = _tips(trial="trial", strict="CER", normalised="normalised CER")
    chart = (
        _chart(points).mark_point(filled=True, size=64, style="plain").encode(x=scale.x(), y=_cer_axis(), tooltip=tips)
    )
    if colours is None:
        return chart
    picked = alt.selection_point(fields=["colour"], bind="legend")
    opacity = alt.condition(picked, alt.value(0.9), alt.value(0.12))
    return chart.encode(color=colours.colour(), opacity=opacity).add_params(picked)


def _sibling_lines(points: list[Point], scale: Scale, colours: Scale | None) -> alt.Chart:
    """Thin lines through the trials that differ in nothing but the parameter on the axis."""
    chart = _chart(points).mark_line(strokeWidth=0.8, opacity=0.35, style="plain")
    encoded = chart.encode(x=scale.x(), y=_cer_axis("mean(cer):Q"), detail="siblings:N")
    return encoded.encode(color=colours.colour()) if colours else encoded


def _mean_lines(points: list[Point], scale: Scale, colours: Scale | None) -> alt.Chart:
    """The mean of the trials at each value, one line per colour where the colours are few."""
    chart = _chart(points).mark_line(strokeWidth=2.5, opacity=0.7, style="plain")
    encoded = chart.encode(x=scale.x(), y=_cer_axis("mean(cer):Q"))
    return encoded.encode(color=colours.colour()) if colours and not colours.gradient else encoded


def _best_ring(points: list[Point], scale: Scale) -> alt.Chart:
    best = [point for point in points if point["best"]]
    return _chart(best).mark_point(size=220, strokeWidth=1.5, style="ring").encode(x=scale.x(), y=_cer_axis())


def _base_layers(comparison: Comparison, scale: Scale) -> list[alt.Chart]:
    """The zero-shot base: a curve where the axis is a decoding setting, else one level, its lowest CER."""
    base = comparison.lowest_base
    if base is None:
        return []
    along = [b for b in comparison.sweep.baselines if value_of(b, scale.param) in scale.values]
    if scale.param.startswith("decoding.") and len(distinct([value_of(b, scale.param) for b in along])) > 1:
        points = [{"x": scale.position(value_of(b, scale.param)), **_base_point(comparison, b)} for b in along]
        line = _chart(points).mark_line(style="base").encode(x=scale.x(), y=_cer_axis("mean(cer):Q"))
        dots = _chart(points).mark_point(style="base-dot", filled=True, size=30)
        return [line, dots.encode(x=scale.x(), y=_cer_axis(), tooltip=_tips(trial="trial", strict="CER"))]
    chart = _chart([_base_point(comparison, base)]).encode(y=_cer_axis(), tooltip=_tips(trial="trial", strict="CER"))
    word = chart.mark_text(style="base-word", align="right", dx=-4, dy=-7).encode(x=alt.value("width"), text="word:N")
    return [chart.mark_rule(style="base"), word]


def _base_point(comparison: Comparison, base: Trial) -> Point:
    strict = percent(base.cer, 2)
    title = trial_title(base, comparison.swept)
    return {"cer": 100 * base.cer, "trial": title, "strict": strict, "word": f"base {percent(base.cer)}"}


def _caption(comparison: Comparison, param: str) -> str:
    means = comparison.means(param)
    if len(means) > MOST_LEVELS:
        return f"{len(means)} values of {param}."
    said = ", ".join(f"{percent(entry.cer)} at {show(entry.value)}" for entry in means)
    return f"Mean CER over the trials: {said}."


def _heat_map(comparison: Comparison) -> Figure:
    """The lowest CER of each pair of rank and learning rate, over everything else that varies."""
    rank, rate = (Scale(name, comparison.distinct(name)) for name in ("lora.r", "optim.lr"))
    lowest: dict[tuple[str, str], Trial] = {}
    for trial in comparison.sweep.finished:
        pair = (show(value_of(trial, "lora.r")), show(value_of(trial, "optim.lr")))
        lowest[pair] = min(lowest.get(pair, trial), trial, key=lambda t: t.cer)
    points = [
        {"rank": r, "rate": lr, "cer": 100 * t.cer, "word": f"{100 * t.cer:.1f}"}
        | {"trial": trial_title(t, comparison.swept), "strict": percent(t.cer, 2)}
        for (r, lr), t in lowest.items()
    ]
    others = [short_key(param) for param in comparison.charted if param not in ("lora.r", "optim.lr")]
    over = f", over every {' and '.join(others)}" if others else ""
    caption = f"The lowest CER (%) of each pair{over}; the stronger the colour, the better."
    return Figure("heat-map", "LoRA rank and learning rate together", caption, drawn(_cells(points, rank, rate), []))


def _cells(points: list[Point], rank: Scale, rate: Scale) -> list[alt.Chart]:
    places = {
        "x": alt.X("rate:O", title=rate.title, sort=rate.words, axis=alt.Axis(labelAngle=0)),
        "y": alt.Y("rank:O", title=rank.title, sort=rank.words[::-1]),
    }
    tips = _tips(trial="best trial", strict="CER")
    shade = alt.Color("cer:Q", scale=alt.Scale(range="heatmap", reverse=True), legend=None)
    layers = [_chart(points).mark_rect().encode(color=shade, tooltip=tips, **places)]
    cers = [point["cer"] for point in points]
    strong = max(cers) - LIGHT_INK_FROM * (max(cers) - min(cers))
    for style, inked in {
        "on-strong": [point for point in points if point["cer"] <= strong],
        "on-weak": [point for point in points if point["cer"] > strong],
    }.items():
        number = _chart(inked).mark_text(fontSize=14, fontWeight="bold", style=style)
        layers.append(number.encode(text="word:N", tooltip=tips, **places))
    return layers
