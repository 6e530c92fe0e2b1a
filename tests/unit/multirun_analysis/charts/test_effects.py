from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from multirun_analysis import load_sweep
from multirun_analysis.analysis import Analysis
from multirun_analysis.charts.effects import effects_figure, effects_note
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
    sweep.fail(3, 8, 3e-3)
    figure, _ = only(effects_figure(load_sweep(sweep.folder).statistics, ENGLISH))
    assert "additive fit" in figure.caption


def test_a_search_says_what_one_parameter_does_alone(sweep: Any) -> None:
    for number in range(16):
        sweep.trial(number, 2 + number, 1e-4 * 1.3 ** ((5 * number) % 16))
    statistics = load_sweep(sweep.folder).statistics
    figure, rows = only(effects_figure(statistics, ENGLISH))
    assert figure.title == "Effect of each value, the others being equal" and "fitted to 16 trials" in figure.caption
    assert statistics.search and statistics.search.curved and "It predicts" in figure.caption
    drawn = [row for row in rows if row.get("param") == "LoRA rank"]
    assert [row["row"].split()[-1] for row in drawn] == ["3", "5", "7", "11", "16"]  # of 2 to 17, not the single ends
    assert all(row["low"] < row["effect"] < row["high"] for row in drawn)
    assert drawn[0]["effect"] > 0 > drawn[-1]["effect"] and effects_note(statistics, ENGLISH) == []
    captions = [
        effects_figure(replace(statistics, search=replace(statistics.search, curved=curved)), ENGLISH)[0].caption
        for curved in (False, None)
    ]
    assert "straight lines" in captions[0] and "Numbers have" not in captions[1]


def test_a_search_of_few_trials_says_how_many_are_needed(sweep: Any) -> None:
    for number in range(4):
        sweep.trial(number, 2 + number, 1e-4 * 3 ** ((3 * number) % 4))
    statistics = load_sweep(sweep.folder).statistics
    assert effects_figure(statistics, ENGLISH) == []
    assert effects_note(statistics, CHINESE) == [
        "试验太少，无法说明其他参数不变时各参数的影响：完成 4 个，至少需要 6 个。"
    ]
