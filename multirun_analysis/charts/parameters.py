"""The error rate against each swept parameter."""

from __future__ import annotations

from typing import Any

from multirun_analysis.charts.figure import (
    Figure,
    Point,
    Spec,
    drawn,
    if_picked,
    layer,
    nominal,
    picked_in_legend,
    rate_axis,
    tips,
)
from multirun_analysis.charts.scales import MOST_LEVELS, Scale
from multirun_analysis.compare import Comparison
from multirun_analysis.messages import Messages
from multirun_analysis.params import distinct, is_of_base, value_of
from multirun_analysis.sweep import Trial
from multirun_analysis.words import entry, param_name, percent, setting


def parameter_figures(comparison: Comparison, say: Messages) -> list[Figure]:
    """A figure for each swept parameter with several values."""
    return [_Parameter(comparison, param, say).figure() for param in comparison.charted]


class _Parameter:
    """One parameter's figure; colours are the first other parameter that varies."""

    def __init__(self, comparison: Comparison, param: str, say: Messages) -> None:
        self.comparison, self.param, self.say = comparison, param, say
        self.scale = Scale(param, comparison.distinct(param), say)
        other = next((name for name in comparison.charted if name != param), None)
        self.colours = Scale(other, comparison.distinct(other), say) if other else None
        self.points = [self._point(trial) for trial in comparison.sweep.finished]

    def figure(self) -> Figure:
        best = [point for point in self.points if point["best"]]
        ring = layer(best, "point", {"x": self.scale.x(), "y": self._axis()}, size=220, strokeWidth=1.5, style="ring")
        layers = [*self._lines(), self._dots(), ring, *self._base_layers()]
        spec = drawn(layers, self.colours.words if self.colours else [])
        title = self.say("parameter.title", param=param_name(self.param, self.say))
        return Figure(f"by-{self.param}", title, self._caption(), spec)

    def _point(self, trial: Trial) -> Point:
        others = [param for param in self.comparison.swept if param != self.param]
        return {
            "x": self.scale.position(value_of(trial, self.param)),
            "cer": 100 * trial.rate,
            "colour": self.colours.colour_of(value_of(trial, self.colours.param)) if self.colours else None,
            "siblings": setting(trial, others, self.say),
            "best": trial is self.comparison.best.trial,
            "trial": entry(trial, self.comparison.swept, self.say),
            "strict": percent(trial.rate, 2),
            "normalised": percent(trial.normalised.cer if trial.normalised else None, 2),
        }

    def _lines(self) -> list[Spec]:
        """Thin lines through the trials that differ in nothing but the parameter on the axis.

        Thick lines through the means of the trials at each value, one per colour where the colours are few.
        """
        along = {"x": self.scale.x(), "y": self._axis(aggregate="mean")}
        layers = []
        if self.colours:
            siblings = along | self.colours.look("line") | {"detail": nominal("siblings")}
            layers.append(layer(self.points, "line", siblings, strokeWidth=0.8, opacity=0.35, style="plain"))
        # Means over a search's trials hold what the other parameters did.
        if (
            self.comparison.is_grid
            and not self.scale.many
            and (self.colours is None or len(self.points) > len(self.scale.values))
        ):
            means = along if self.colours is None or self.colours.gradient else along | self.colours.look("line")
            layers.append(layer(self.points, "line", means, strokeWidth=2.5, opacity=0.7, style="plain"))
        return layers

    def _dots(self) -> Spec:
        """Trials as points; a click on the legend fades the others."""
        told = tips(trial=self.say("board.trial"), strict=self.say.rate, normalised=self.say("rate.normalised_cer"))
        encoding = {"x": self.scale.x(), "y": self._axis(), "tooltip": told}
        look: dict[str, Any] = {"filled": True, "size": 64, "style": "plain"}
        coloured = self.colours.look("point") if self.colours else {}
        if self.colours is None or self.colours.gradient:  # a gradient has no entries to click on
            return layer(self.points, "point", encoding | coloured, **look)
        encoding |= coloured | {"opacity": if_picked(0.9, otherwise=0.12)}
        return layer(self.points, "point", encoding, picked_in_legend("colour"), **look)

    def _base_layers(self) -> list[Spec]:
        """The zero-shot base: a curve where the axis is a decoding setting, else one level, its lowest rate."""
        base = self.comparison.lowest_base
        if base is None:
            return []
        told = tips(trial=self.say("board.trial"), strict=self.say.rate)
        along = [b for b in self.comparison.sweep.baselines if value_of(b, self.param) in self.scale.values]
        if is_of_base(self.param) and len(distinct([value_of(b, self.param) for b in along])) > 1:
            points = [{"x": self.scale.position(value_of(b, self.param)), **self._base_point(b)} for b in along]
            means = {"x": self.scale.x(), "y": self._axis(aggregate="mean")}
            each = {"x": self.scale.x(), "y": self._axis(), "tooltip": told}
            dots = layer(points, "point", each, style="base-dot", filled=True, size=30)
            return [layer(points, "line", means, style="base"), dots]
        level, encoding = [self._base_point(base)], {"y": self._axis(), "tooltip": told}
        written = encoding | {"x": {"value": "width"}, "text": nominal("word")}
        word = layer(level, "text", written, style="base-word", align="right", dx=-4, dy=-7)
        return [layer(level, "rule", encoding, style="base"), word]

    def _axis(self, **options: Any) -> Spec:
        return rate_axis(rate=self.say.rate, **options)

    def _base_point(self, base: Trial) -> Point:
        return {
            "cer": 100 * base.rate,
            "trial": entry(base, self.comparison.swept, self.say),
            "strict": percent(base.rate, 2),
            "word": self.say("charts.base_word", cer=percent(base.rate)),
        }

    def _caption(self) -> str:
        means = self.comparison.means(self.param)
        if not self.comparison.is_grid:
            return self.say("parameter.search")
        if len(means) > MOST_LEVELS:
            return self.say("parameter.values", n=len(means), param=self.param)
        said = [self.say("parameter.mean", cer=percent(cer), value=self.scale.word(value)) for value, cer in means]
        return self.say("parameter.means", said=self.say("list.comma").join(said))


def parameter_note(comparison: Comparison, say: Messages) -> list[str]:
    """How to read the figures, in sentences."""
    lines = [say("charts.lines" if comparison.is_grid else "charts.thin_lines")] if len(comparison.charted) > 1 else []
    return [say("charts.points"), *lines, say("charts.base" if comparison.sweep.baselines else "charts.no_base")]
