"""Parts shared by all charts: a Vega-Lite specification with its heading and caption, axes and tooltips.

The theme's colours are in report/templates/report.js: a style named here (``style="base"``) gets its colour there, for
the reader's light or dark setting.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import altair as alt

from multirun_analysis.statistics.results import Interval

HEIGHT = 280
ROW = 22  # height of one row where rows are named at the left

Point = dict[str, Any]


@dataclass(frozen=True)
class Figure:
    """A chart as a Vega-Lite specification, its heading and the sentence under it (both plain text).

    wide: takes the whole width of the page.
    """

    key: str
    title: str
    caption: str
    spec: dict[str, Any]
    wide: bool = False


def drawn(layers: list[alt.Chart], names: list[str], height: int = HEIGHT, **meta: Any) -> dict[str, Any]:
    """The layers as one specification as wide as its place on the page.

    ``usermeta`` tells report.js how wide a legend entry is, so that the legend wraps on a phone; ``meta`` is added.
    The tests check specifications against Vega-Lite's schema; here that would take a fifth of a report's time.
    """
    widest = max((_width(name) for name in names), default=0)
    usermeta = {"legendEntry": 30 + 6.3 * widest, **meta}
    return alt.layer(*layers, usermeta=usermeta).properties(width="container", height=height).to_dict(validate=False)


def _width(name: str) -> int:
    """In Latin letters: a Han character is two of them wide."""
    return sum(2 if ord(character) > 0x2E80 else 1 for character in name)


def chart_of(points: list[Point]) -> alt.Chart:
    """A chart of inline data."""
    return alt.Chart(alt.Data(values=points))


def tips(**titles: str) -> list[alt.Tooltip]:
    """Tooltip lines: field = heading."""
    return [alt.Tooltip(f"{field}:N", title=title) for field, title in titles.items()]


def whisker(value: float, interval: Interval | None) -> Point:
    """The bounds of a value's interval in percent; the value itself where it has none."""
    low, high = (interval.low, interval.high) if interval else (value, value)
    return {"low": 100 * low, "high": 100 * high}


def cer_axis(field: str = "cer:Q") -> alt.Y:
    """CER in percent; it need not begin at zero."""
    return alt.Y(field, title="CER (%)", scale=alt.Scale(zero=False, nice=True))
