from __future__ import annotations

from typing import Any

import pytest

from multirun_analysis import load_sweep
from multirun_analysis.analysis import Analysis
from multirun_analysis.charts.parallel import parallel_figure
from multirun_analysis.messages import ENGLISH
from tests.report_page import only


def test_one_line_per_trial_across_all_axes(synthetic: Analysis) -> None:
    _, rows = only(parallel_figure(synthetic, ENGLISH))
    corners = [row for row in rows if "name" in row]
    axes = ["LoRA rank", "learning rate", "text temperature", "CER %"]
    assert {row["name"] for row in corners} == {str(number) for number in range(8)}
    for trial in synthetic.sweep.finished:
        mine = [row for row in corners if row["name"] == trial.name]
        assert [row["axis"] for row in mine] == axes
        assert all(-0.1 <= row["place"] <= 1.1 for row in mine)
    by_cer = sorted((row for row in corners if row["axis"] == "CER %"), key=lambda row: row["place"])
    assert [row["rate"] for row in by_cer] == sorted(100 * trial.cer for trial in synthetic.sweep.finished)
    assert (by_cer[0]["place"], by_cer[-1]["place"]) == (0, 1)
    higher = [row["place"] for row in corners if row["axis"] == "LoRA rank" and ": lora.r=32 " in row["trial"]]
    lower = [row["place"] for row in corners if row["axis"] == "LoRA rank" and ": lora.r=8 " in row["trial"]]
    assert min(higher) > max(lower) and len(set(higher)) == 4, "lines that share a value lie side by side"


def test_a_plain_comparison_needs_no_parallel_axes(sweep: Any) -> None:
    assert parallel_figure(load_sweep(sweep.grid(rates=(1e-3,), temperatures=(0.0,))), ENGLISH) == []


def test_many_values_lie_where_they_belong(sweep: Any) -> None:
    for number in range(12):
        sweep.trial(number, rank=8 + number % 2, rate=1e-5 * 2**number)
    _, rows = only(parallel_figure(load_sweep(sweep.folder), ENGLISH))
    places = [row["place"] for row in rows if row["axis"] == "learning rate" and "name" in row]
    assert sorted(places) == pytest.approx([number / 11 for number in range(12)])
    assert {row["word"] for row in rows if row["axis"] == "learning rate" and "word" in row} == {"1e-5", "0.02048"}
