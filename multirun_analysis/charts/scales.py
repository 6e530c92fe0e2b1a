"""Swept parameters as axes and colours."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from multirun_analysis.charts.figure import Spec, ordinal, quantity, series
from multirun_analysis.charts.short_values import short_values
from multirun_analysis.messages import Messages
from multirun_analysis.params import identity
from multirun_analysis.words import param_name, shown

LOG_BASES = {"lora.r": 2, "lora.lora_alpha": 2, "optim.lr": 10}
MOST_ACROSS = 40  # letters side by side below an axis; more are turned
MOST_LEVELS = 8  # more values than this get a colour gradient and an automatic axis, and no line through their means


@dataclass(frozen=True)
class Scale:
    """One parameter as an axis or a colour: numbers on a (logarithmic) scale, everything else as words in order."""

    param: str
    values: list[Any]
    say: Messages

    @property
    def numeric(self) -> bool:
        numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in self.values)
        return numbers and self.param != "seed" and (self.param not in LOG_BASES or min(self.values) > 0)

    @property
    def many(self) -> bool:
        return len(self.values) > MOST_LEVELS

    @property
    def name(self) -> str:
        return param_name(self.param, self.say)

    @property
    def title(self) -> str:
        is_named = self.name != self.param
        return self.say("parameter.axis", name=self.name, key=self.param) if is_named else self.name

    @property
    def words(self) -> list[str]:
        return [self.word(value) for value in self.values]

    def word(self, value: Any) -> str:
        """A value as it is written, or a short label; what it means where it was left open."""
        return self._labels.get(identity(value)) or shown(self.param, value, self.say)

    @cached_property
    def _labels(self) -> dict[str, str]:
        return short_values(self.param, self.values, self.say)

    def position(self, value: Any) -> Any:
        """Where ``value`` lies on the axis."""
        return value if self.numeric else self.word(value)

    def x(self) -> Spec:
        if not self.numeric:
            is_wide = len("".join(self.words)) > MOST_ACROSS
            turned: Spec = {"labelAngle": -30 if is_wide else 0, "labelLimit": 150}
            return ordinal("x", title=self.title, sort=self.words, axis=turned)
        base = LOG_BASES.get(self.param)
        kind = {"type": "log", "base": base} if base else {"zero": False}
        label = "format(datum.value, datum.value && abs(datum.value) < 0.001 ? '~e' : '~g')"
        ticks = {} if self.many else {"values": self.values}
        axis = {"labelExpr": label, "grid": False, "labelFlush": False, "labelSeparation": 8, **ticks}
        return quantity("x", title=self.title, axis=axis, scale={"nice": False, "padding": 28, **kind})

    @property
    def gradient(self) -> bool:
        """Whether colours run along the numbers instead of being one per value."""
        return self.many and self.numeric

    def colour_of(self, value: Any) -> Any:
        return value if self.gradient else self.word(value)

    def look(self, mark: str) -> Spec:
        """Encoding of the values in marks of this kind ("line" or "point"): along a ramp if they have an order."""
        if not self.numeric:
            return series(mark, "colour", self.words, title=self.name)
        if self.gradient and mark == "line":  # Vega draws a gradient's legend where one channel alone has it
            return {"stroke": self._ramp() | {"legend": None}}
        return {"color": self._ramp()}

    def _ramp(self) -> Spec:
        if self.gradient:
            kind = "log" if self.param in LOG_BASES else "linear"
            scale = {"type": kind, "range": "ordinal"}
            label = "format(datum.value, datum.value && abs(datum.value) < 0.001 ? '.1~e' : '.3~g')"
            legend = {"type": "gradient", "values": [self.values[0], self.values[-1]], "labelExpr": label}
            return quantity("colour", title=self.name, scale=scale, legend=legend)
        return ordinal("colour", title=self.name, sort=self.words)
