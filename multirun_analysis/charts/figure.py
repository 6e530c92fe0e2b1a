"""Parts shared by all charts: a Vega-Lite specification with its heading and caption, axes and tooltips.

Specifications are written as they are (vega.github.io/vega-lite/docs); the tests check them against the schema. The
theme's colours are in report/templates/report.js: a style named here (``style="base"``) gets its colour there, for the
reader's light or dark setting.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from multirun_analysis.statistics.results import Interval

HEIGHT = 280
ROW = 22  # height of one row where rows are named at the left
FEW_COLOURS = 4

Point = dict[str, Any]
Spec = dict[str, Any]
"""A part of a specification."""


@dataclass(frozen=True)
class Figure:
    """A chart as a Vega-Lite specification, its heading and the sentence under it (both plain text).

    wide: takes the whole width of the page.
    """

    key: str
    title: str
    caption: str
    spec: Spec
    wide: bool = False


def drawn(
    layers: Sequence[Spec], names: Sequence[str], height: int = HEIGHT, params: Sequence[Spec] = (), **meta: Any
) -> Spec:
    """The layers as one specification as wide as its place on the page.

    Args:
        names: in the legend. ``usermeta`` tells report.js how wide an entry is, so that the legend wraps on a phone.
        params: variables that the page sets.
        meta: added to ``usermeta``.
    """
    widest = max((_width(name) for name in names), default=0)
    # Layers of the same points share them.
    points = {id(layer["data"]["values"]): layer["data"]["values"] for layer in layers}
    named = {key: f"points-{number}" for number, key in enumerate(points)}
    return {
        "usermeta": {"legendEntry": 30 + 6.3 * widest, **meta},
        "width": "container",
        "height": height,
        "params": list(params),
        "datasets": {named[key]: rows for key, rows in points.items()},
        "layer": [layer | {"data": {"name": named[id(layer["data"]["values"])]}} for layer in layers],
    }


def _width(name: str) -> int:
    """In Latin letters: a Han character is two of them wide."""
    return sum(2 if ord(character) > 0x2E80 else 1 for character in name)


def layer(points: list[Point], mark: str, encoding: Spec, picked: Spec | None = None, **look: Any) -> Spec:
    """A mark for the points (a line is one for all of them).

    Args:
        picked: a selection that begins at these marks.
        look: properties of the mark, such as its size.
    """
    spec = {"data": {"values": points}, "mark": {"type": mark, **look}, "encoding": encoding}
    return spec | ({"params": [picked]} if picked else {})


def quantity(field: str, **options: Any) -> Spec:
    """A number of the points, along an axis or as a colour."""
    return {"field": field, "type": "quantitative", **options}


def ordinal(field: str, **options: Any) -> Spec:
    """A text of the points whose values have an order."""
    return {"field": field, "type": "ordinal", **options}


def nominal(field: str, **options: Any) -> Spec:
    """A text of the points."""
    return {"field": field, "type": "nominal", **options}


def series(mark: str, field: str, names: Sequence[str], **options: Any) -> Spec:
    """Encoding of names that have no order, in marks of this kind ("line" or "point").

    Not every eye tells more than four colours apart: of more, lines have dashes too, and points shapes.
    """
    # With their domain written out the three make one legend, though they are of different layers.
    look = nominal(field, sort=list(names), scale={"domain": list(names)}, **options)
    return {"color": look} | ({"strokeDash" if mark == "line" else "shape": look} if len(names) > FEW_COLOURS else {})


def picked_in_legend(field: str) -> Spec:
    """A selection named "picked": the points of the entry that was clicked on."""
    return {"name": "picked", "select": {"type": "point", "fields": [field]}, "bind": "legend"}


def if_picked(value: float, otherwise: float) -> Spec:
    """One value for the points that are picked (all, before a click), and another for the rest."""
    return {"condition": {"param": "picked", "value": value}, "value": otherwise}


def tips(**titles: str) -> list[Spec]:
    """Tooltip lines: field = heading."""
    return [nominal(field, title=title) for field, title in titles.items()]


def whisker(value: float, interval: Interval | None) -> Point:
    """The bounds of a value's interval in percent; the value itself where it has none."""
    low, high = (interval.low, interval.high) if interval else (value, value)
    return {"low": 100 * low, "high": 100 * high}


def rate_axis(field: str = "cer", rate: str = "CER", **options: Any) -> Spec:
    """An error rate in percent; it need not begin at zero."""
    return quantity(field, title=f"{rate} (%)", scale={"zero": False, "nice": True}, **options)
