"""The learning curve: measured points, the law's line and band, and its forecasts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from multirun_analysis import load_sweep
from multirun_analysis.charts.learning import learning_figure
from multirun_analysis.messages import ENGLISH
from tests.report_page import only

SIZES = (100, 200, 400, 800)


def test_points_are_measured_and_the_line_is_the_law(sweep: Any) -> None:
    for number, size in enumerate(SIZES):
        sweep.trial_of_size(number, size, 0.1 + 2.0 * size**-0.5)
    analysis = load_sweep(sweep.folder)
    assert analysis.learning is not None
    (curve,) = analysis.learning.curves
    _, rows = only(learning_figure(analysis, ENGLISH))
    measured = {row["size"]: row["cer"] for row in rows if "trial" in row}
    assert measured == pytest.approx({size: 10 + 200 * size**-0.5 for size in SIZES})
    line = {row["size"]: row["cer"] for row in rows if "low" in row}
    forecasts = {one.size: 100 * one.cer for one in (*curve.line, *curve.forecasts)}
    assert line == pytest.approx(forecasts) and max(line) > max(SIZES)
    assert all(row["low"] <= row["cer"] <= row["high"] for row in rows if "low" in row)


def test_a_sweep_over_anything_else_has_none(sweep_24: Path) -> None:
    assert learning_figure(load_sweep(sweep_24), ENGLISH) == []
