"""One figure and the rows it shows, for the tests of the charts."""

from __future__ import annotations

from typing import Any

import altair as alt

from multirun_analysis.charts.figure import Figure
from tests.report_page import values


def only(figures: list[Figure]) -> tuple[Figure, list[dict[str, Any]]]:
    """The one figure, valid to Vega-Lite's schema, and its data."""
    (figure,) = figures
    alt.LayerChart.from_dict(figure.spec)
    return figure, values(figure.spec)
