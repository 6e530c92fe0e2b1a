from __future__ import annotations

from typing import Any

import pytest

from multirun_analysis import load_sweep
from multirun_analysis.analysis import Analysis
from multirun_analysis.charts.effects import effects_figure
from multirun_analysis.messages import CHINESE, ENGLISH
from tests.report_page import only


def test_effects_are_the_statistics(synthetic: Analysis) -> None:
    figure, rows = only(effects_figure(synthetic.statistics, CHINESE))
    drawn = {row["row"]: row for row in rows if "row" in row}
    assert list(drawn) == ["LoRA 秩 8", "LoRA 秩 32", "学习率 5e-5", "学习率 1e-4", "文本温度 0.0", "文本温度 0.3"]
    for effect in synthetic.statistics.effects:
        for one in effect.values:
            row = next(row for row in drawn.values() if row["effect"] == pytest.approx(100 * one.effect))
            assert one.interval and row["low"] == pytest.approx(100 * one.interval.low)
    assert drawn["LoRA 秩 8"]["effect"] > 0 > drawn["LoRA 秩 32"]["effect"]
    assert "加性" not in figure.caption


def test_missing_trials_are_said_at_the_effects(sweep: Any) -> None:
    for number, (rank, rate) in enumerate([(2, 1e-3), (2, 3e-3), (8, 1e-3)]):
        sweep.trial(number, rank, rate)
    figure, _ = only(effects_figure(load_sweep(sweep.folder).statistics, ENGLISH))
    assert "additive fit" in figure.caption
